"""A request whose body has been read, with everything else that routes of all dialects need."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Generic, TypeVar

from litestar import Request

from corral.api.http.callers import caller_of, models_of
from corral.api.http.disconnect import CancelOnDisconnect
from corral.api.http.go_json import Body
from corral.api.http.request_log import request_log
from corral.core.runtime import Runtime

__all__ = ("Received",)

BodyT = TypeVar("BodyT", bound=Body)
ResultT = TypeVar("ResultT")


class Received(Generic[BodyT]):
    """The decoded body, who sent it, the runtime and the models that answer it, and its line in the log."""

    __slots__ = ("_request", "body", "caller", "log", "models", "runtime")

    def __init__(self, request: Request[Any, Any, Any], body: BodyT) -> None:
        self._request = request
        self.body = body
        self.caller = caller_of(request.scope)
        self.log = request_log(request.scope)
        self.runtime: Runtime = request.app.state.runtime
        self.models = models_of(request)

    async def unless_client_leaves(self, work: Awaitable[ResultT]) -> ResultT:
        """The result of `work`, which is cancelled if the client goes away. Raises `Cancelled` then."""
        async with CancelOnDisconnect(self._request.scope):
            return await work

"""What all routes that ask a model have in common: they check keep-alive and model, and name the model in errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

import msgspec
from litestar import Request
from msgspec import UNSET, UnsetType

from corral.api.http.body import read_json
from corral.api.http.errors import ApiError
from corral.api.http.model_body import ModelBody
from corral.api.http.naming import read_name, without_selector
from corral.api.http.received import Received
from corral.core.errors import ModelNotFound
from corral.core.go.durations import parse_keep_alive_s
from corral.core.models.names import ModelName

__all__ = ("INFERENCE_STATUSES", "InferenceRequest", "begin")

INFERENCE_STATUSES = (404, 409, 502)
"""What a request to a model may be answered with, beside the statuses that any route can answer."""

BodyT = TypeVar("BodyT", bound=ModelBody)


class InferenceRequest(Received[BodyT], Generic[BodyT]):
    """A request to a model. As a context manager, answers `ModelNotFound` with the name as the client wrote it.

    `model` is the name without ``:local``; `name` is the same, parsed.
    """

    __slots__ = ("_not_found", "keep_alive_s", "model", "name")

    def __init__(self, request: Request[Any, Any, Any], body: BodyT, not_found: str) -> None:
        super().__init__(request, body)
        self._not_found = not_found
        self.keep_alive_s: float | UnsetType | None = UNSET
        self.model = ""
        self.name: ModelName

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ModelNotFound):
            text = self._not_found.format(self.body.model)
            raise ApiError(404, text, code=error.code, param="model") from error


async def begin(
    request: Request[Any, Any, Any],
    kind: type[BodyT],
    *,
    check: Callable[[BodyT], None] = lambda body: None,
    no_model: ApiError,
    not_found: str,
    default_model: Callable[[Request[Any, Any, Any]], Awaitable[str]] | None = None,
) -> InferenceRequest[BodyT]:
    """Reads the body and checks the fields that all of these routes have, in Ollama's order. `check` is the route's own
    part. `no_model` answers a request without a model, and `not_found` one for an unknown model; the name as it was
    typed replaces ``{}``. `default_model` gives the model of a request that names none.
    """
    body = await read_json(request, kind)
    if default_model is not None and not body.model.strip():
        body = msgspec.structs.replace(body, model=await default_model(request))
    begun = InferenceRequest(request, body, not_found)
    if not body.in_background:
        begun.runtime.limits.require_place(begun.caller.principal)
    begun.log.model = body.model
    begun.keep_alive_s = parse_keep_alive_s(body.keep_alive)
    check(body)
    if not body.model.strip():
        raise ApiError(no_model.status, no_model.text.format(body.model), param="model")
    begun.model = without_selector(body.model)
    begun.name = read_name(begun.model)
    return begun

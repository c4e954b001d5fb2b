"""The HTTP status of each error, `ApiError` for routes to raise, and the handlers that answer in a dialect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from corral.core.errors import (
    Cancelled,
    Conflict,
    CorralError,
    EngineNotInstalled,
    InvalidOption,
    InvalidRequest,
    NotFound,
    ReadOnly,
    ServerBusy,
    Unsupported,
    UpstreamError,
)
from corral.core.values import Value
from corral.core.wording.clipping import clipped

if TYPE_CHECKING:
    from corral.api.http.dialects import Dialect

__all__ = ("EXCEPTION_HANDLERS", "JSON", "STATUSES", "ApiError", "ErrorReply", "dialect_of", "shown_text")

JSON = "application/json; charset=utf-8"
"""The content type of everything that is one JSON value."""

STATUSES: Mapping[type[CorralError], int] = {
    InvalidRequest: 400,
    InvalidOption: 400,
    NotFound: 404,
    Unsupported: 400,
    Conflict: 409,
    ReadOnly: 403,
    EngineNotInstalled: 501,
    UpstreamError: 502,
    ServerBusy: 503,
    Cancelled: 499,
    CorralError: 500,
}
"""The status of each kind of error; the nearest base class counts. Dialects may differ: Ollama's does."""

_LONGEST_TEXT = 4000


class ApiError(Exception):
    """An answer that is an error, decided by a route: its status and its text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class ErrorReply(Value, frozen=True, kw_only=True):
    """The response to a request that failed. `media_type` is None if the body is empty."""

    status: int
    body: bytes
    media_type: str | None


def shown_text(text: str) -> str:
    """An error's text as a client may get it: cut if it repeats a long input, lone surrogates escaped."""
    return clipped(text, _LONGEST_TEXT).encode("utf-8", "backslashreplace").decode()


def dialect_of(request: Request[Any, Any, Any]) -> Dialect:
    """The dialect that answers this request."""
    found: Dialect = request.app.state.dialects.of(request.scope["path"])
    return found


def _answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return _response(dialect_of(request).reply(error))


def _framework_answer(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """The answer to errors that Litestar itself raises."""
    if isinstance(error, NotFoundException):
        return _response(dialect_of(request).unknown_path())
    if isinstance(error, MethodNotAllowedException):
        return _response(dialect_of(request).wrong_method(), error.headers)
    return _answer(request, ApiError(error.status_code, error.detail))


def _response(reply: ErrorReply, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    return Response(reply.body, status_code=reply.status, media_type=reply.media_type, headers=headers)


EXCEPTION_HANDLERS: Mapping[Any, Any] = {HTTPException: _framework_answer, Exception: _answer}
"""For the whole app, plugins' routers included."""

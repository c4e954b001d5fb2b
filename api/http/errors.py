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
    from corral.api.http.dialects import Dialects

__all__ = ("EXCEPTION_HANDLERS", "JSON", "STATUSES", "ApiError", "ErrorReply", "dialects_of", "shown_text")

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


def dialects_of(request: Request[Any, Any, Any]) -> Dialects:
    """The dialects of the server that answers this request."""
    found: Dialects = request.app.state.dialects
    return found


def _answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return _response(dialects_of(request).reply(request.scope["path"], error))


def _framework_answer(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """The answer to errors that Litestar itself raises."""
    path = request.scope["path"]
    if isinstance(error, NotFoundException):
        return _response(dialects_of(request).unknown_path(path))
    if isinstance(error, MethodNotAllowedException):
        return _response(dialects_of(request).wrong_method(path), _allowed(error.headers))
    return _answer(request, ApiError(error.status_code, error.detail))


def _allowed(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The methods of a path in a fixed order, without OPTIONS, which every path answers."""
    allowed = {name.lower(): value for name, value in (headers or {}).items()}.get("allow", "")
    return {"allow": ", ".join(sorted({method.strip() for method in allowed.split(",")} - {"OPTIONS", ""}))}


def _response(reply: ErrorReply, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    kind = {} if reply.media_type is None else {"content-type": reply.media_type}  # as it is, without a charset
    return Response(reply.body, status_code=reply.status, headers={**kind, **(headers or {})})


EXCEPTION_HANDLERS: Mapping[Any, Any] = {HTTPException: _framework_answer, Exception: _answer}
"""For the whole app, plugins' routers included."""

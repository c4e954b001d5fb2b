"""The HTTP status of each error, `ApiError` for routes to raise, and the handlers that answer in a dialect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.types import Scope

from corral.api.http.limit_headers import refusal_headers
from corral.api.http.request_log import request_log
from corral.core.access_errors import Forbidden, TooManyRequests, Unauthenticated
from corral.core.errors import (
    Cancelled,
    Conflict,
    CorralError,
    EngineError,
    EngineNotInstalled,
    InvalidModelFile,
    InvalidOption,
    InvalidRequest,
    NotFound,
    ReadOnly,
    ServerBusy,
    StorageError,
    Unsupported,
    UpstreamError,
)
from corral.core.values import Value
from corral.core.web_errors import WebDisabled, WebError, WebNotInstalled
from corral.core.wording.clipping import clipped

if TYPE_CHECKING:
    from corral.api.http.dialects import Dialects

__all__ = (
    "EXCEPTION_HANDLERS",
    "JSON",
    "STATUSES",
    "ApiError",
    "BodyTooLarge",
    "ErrorReply",
    "Headers",
    "asked_of",
    "dialects_of",
    "shown_text",
)

JSON = "application/json; charset=utf-8"
"""The content type of everything that is one JSON value."""

STATUSES: Mapping[type[CorralError], int] = {
    InvalidRequest: 400,
    InvalidOption: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    TooManyRequests: 429,
    NotFound: 404,
    Unsupported: 400,
    Conflict: 409,
    ReadOnly: 403,
    EngineNotInstalled: 501,
    UpstreamError: 502,
    ServerBusy: 503,
    WebDisabled: 403,
    WebError: 502,
    WebNotInstalled: 501,
    Cancelled: 499,
    CorralError: 500,
}
"""The status of each kind of error; the nearest base class counts. Dialects may differ: Ollama's does."""

Headers = Iterable[tuple[bytes, bytes]]
"""The headers of a request, as ASGI has them: the names in lower case."""

_LONGEST_TEXT = 4000

_LOGGED = (InvalidOption, EngineError, InvalidModelFile, StorageError)
"""Errors that say why a model was not loaded, or did not answer. What they quote of the request is left out."""


class ApiError(Exception):
    """An answer that is an error, decided by a route: its status and its text.

    What programs read is for dialects that have a place for it. `code` says what went wrong, as `CorralError.code`
    does; `param` is the field of the request that is wrong; `kind` is a class of errors, for a dialect that would
    otherwise derive it from the status. `headers` are sent whatever the dialect.
    """

    def __init__(
        self,
        status: int,
        text: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.code = code
        self.param = param
        self.kind = kind
        self.headers = dict(headers or {})


class BodyTooLarge(ApiError):
    """The body exceeds the limit. Most of it has not been read."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(413, f"the request body is larger than the limit of {limit_bytes} bytes")


class ErrorReply(Value, frozen=True, kw_only=True):
    """The response to a request that failed. `media_type` is None if the body is empty; `headers` are further ones."""

    status: int
    body: bytes
    media_type: str | None
    headers: Mapping[str, str] = {}

    def fields(self) -> dict[str, str]:
        """All its headers: the names in lower case, the content type as it is, without a charset of its own."""
        kind = {} if self.media_type is None else {"content-type": self.media_type}
        return {name.lower(): value for name, value in self.headers.items()} | kind


def shown_text(text: str) -> str:
    """An error's text as a client may get it: cut if it repeats a long input, lone surrogates escaped."""
    return clipped(text, _LONGEST_TEXT).encode("utf-8", "backslashreplace").decode()


def asked_of(scope: Scope) -> tuple[str, Headers]:
    """What decides who answers a request: its path and its headers."""
    return scope["path"], scope["headers"]


def dialects_of(request: Request[Any, Any, Any]) -> Dialects:
    """The dialects of the server that answers this request."""
    found: Dialects = request.app.state.dialects
    return found


def _answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    if isinstance(error, _LOGGED) and not isinstance(error, UpstreamError):  # which quotes another server
        request_log(request.scope).failed(error, error.message)
    return _response(dialects_of(request).reply(*asked_of(request.scope), error), refusal_headers(error))


def _framework_answer(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """The answer to errors that Litestar itself raises."""
    asked = asked_of(request.scope)
    if isinstance(error, NotFoundException):
        return _response(dialects_of(request).unknown_path(*asked))
    if isinstance(error, MethodNotAllowedException):
        return _response(dialects_of(request).wrong_method(*asked), _allowed(error.headers))
    return _answer(request, ApiError(error.status_code, error.detail))


def _allowed(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The methods of a path in a fixed order, without OPTIONS, which every path answers."""
    allowed = {name.lower(): value for name, value in (headers or {}).items()}.get("allow", "")
    return {"allow": ", ".join(sorted({method.strip() for method in allowed.split(",")} - {"OPTIONS", ""}))}


def _response(reply: ErrorReply, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    return Response(reply.body, status_code=reply.status, headers={**reply.fields(), **(headers or {})})


EXCEPTION_HANDLERS: Mapping[Any, Any] = {HTTPException: _framework_answer, Exception: _answer}
"""For the whole app, plugins' routers included."""

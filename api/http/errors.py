"""Which status and text an error has on Ollama's routes, and its envelope ``{"error": "…"}``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from corral.core.errors import (
    Cancelled,
    Conflict,
    CorralError,
    EngineNotInstalled,
    InvalidOption,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    PromptTooLong,
    ServerBusy,
    Unsupported,
    UpstreamError,
)
from corral.core.wording.clipping import clipped

__all__ = ("EXCEPTION_HANDLERS", "JSON", "PROMPT_TOO_LONG", "ApiError", "error_body", "problem_of")

_log = logging.getLogger("corral.http")

PROMPT_TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
    "context length in settings, or use a model with a longer context length"
)
_LONGEST_TEXT = 4000

JSON = "application/json; charset=utf-8"
"""The content type of everything that is one JSON value."""

_STATUSES: Mapping[type[CorralError], int] = {
    # Ollama answers a mistyped option only once it loads the model, hence 500.
    InvalidOption: 500,
    InvalidRequest: 400,
    NotFound: 404,
    Unsupported: 400,
    Conflict: 409,
    EngineNotInstalled: 501,
    UpstreamError: 502,
    ServerBusy: 503,
    Cancelled: 499,
    CorralError: 500,
}

_TEXTS: Mapping[type[CorralError], str] = {
    PromptTooLong: PROMPT_TOO_LONG,
    Cancelled: "request canceled",
}
"""Texts that clients know word for word, whatever the error says of itself."""

_MESSAGE_ALONE = (ModelNotFound, InvalidOption, ServerBusy)
"""Errors whose message is Ollama's own: no remedy is added to it."""


class ApiError(Exception):
    """An answer that is an error, decided by a route: its status and its text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def error_body(text: str) -> bytes:
    """Ollama's envelope, encoded. A text that repeats a long input is cut; half a surrogate pair is escaped."""
    encodable = clipped(text, _LONGEST_TEXT).encode("utf-8", "backslashreplace").decode()
    return msgspec.json.encode({"error": encodable})


def problem_of(error: Exception) -> ApiError:
    """What the caller is told of `error`. One that nobody foresaw is logged and told as 500 without its text."""
    if isinstance(error, ApiError):
        return error
    if not isinstance(error, CorralError):
        _log.error("unexpected error in a request", exc_info=error)
        return ApiError(500, "internal server error; the server's log has the details")
    kinds = type(error).__mro__
    status = next(_STATUSES[kind] for kind in kinds if kind in _STATUSES)
    text = next((_TEXTS[kind] for kind in kinds if kind in _TEXTS), error.message)
    if text is error.message and error.remedy and not isinstance(error, _MESSAGE_ALONE):
        text = f"{text}; {error.remedy}"
    return ApiError(status, text)


def _answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    problem = problem_of(error)
    return Response(error_body(problem.text), status_code=problem.status, media_type=JSON)


def _framework_answer(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes] | Response[str]:
    """What Litestar raises by itself. Unknown paths and verbs are plain text, as in Ollama's router."""
    if isinstance(error, NotFoundException):
        return Response("404 page not found", status_code=404, media_type="text/plain")
    if isinstance(error, MethodNotAllowedException):
        return Response("405 method not allowed", status_code=405, media_type="text/plain", headers=error.headers)
    return _answer(request, ApiError(error.status_code, error.detail))


EXCEPTION_HANDLERS: Mapping[Any, Any] = {HTTPException: _framework_answer, Exception: _answer}
"""For the whole app, plugins' routers included."""

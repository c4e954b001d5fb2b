"""llama-server's dialect: the envelope of its errors, ``{"error": {"code", "message", "type"}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from corral.api.http.dialects import Dialect
from corral.api.http.errors import ApiError, ErrorReply, shown_text
from corral.core.errors import CorralError, PromptTooLong, Unsupported

__all__ = ("LLAMA_SERVER", "ErrorBody", "ErrorFacts", "LlamaServerDialect")

_KINDS: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    501: "not_supported_error",
    503: "unavailable_error",
}

_encode = msgspec.json.Encoder().encode


class ErrorFacts(msgspec.Struct, frozen=True, kw_only=True):
    code: int
    message: str
    type: str


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What llama-server answers if a request fails. `code` is the HTTP status."""

    error: ErrorFacts


class LlamaServerDialect(Dialect):
    name: ClassVar[str] = "llama_server"
    error = ErrorBody
    # What a model cannot do is "not supported" there, not the request's fault.
    statuses: ClassVar[Mapping[type[CorralError], int]] = {Unsupported: 501}

    def body(self, problem: ApiError) -> bytes:
        too_long = "exceed_context_size_error" if problem.code == PromptTooLong.code else None
        kind = problem.kind or too_long or _KINDS.get(problem.status, "server_error")
        facts = ErrorFacts(code=problem.status, message=shown_text(problem.text), type=kind)
        return _encode(ErrorBody(error=facts))

    def unknown_path(self) -> ErrorReply:
        return self.reply(ApiError(404, "File Not Found", code="unknown_path"))


LLAMA_SERVER = LlamaServerDialect()

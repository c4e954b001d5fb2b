"""Ollama's dialect: the statuses and texts of its errors, and their envelope ``{"error": "…"}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from corral.api.http.dialects import Dialect
from corral.api.http.error_texts import text_of
from corral.api.http.errors import ApiError, ErrorReply, shown_text
from corral.api.http.ollama.replies import ErrorEnvelope
from corral.api.http.ollama.schemas import COMPONENTS, SCHEMAS
from corral.core.errors import CorralError, MistypedOption

__all__ = ("OLLAMA", "OllamaDialect")


class OllamaDialect(Dialect):
    name: ClassVar[str] = "ollama"
    schemas = SCHEMAS
    components = COMPONENTS
    error = ErrorEnvelope
    # Ollama answers a mistyped option only once it loads the model, hence 500.
    statuses: ClassVar[Mapping[type[CorralError], int]] = {MistypedOption: 500}

    def body(self, problem: ApiError) -> bytes:
        return msgspec.json.encode(ErrorEnvelope(error=shown_text(problem.text)))

    def text(self, error: CorralError) -> str:
        return text_of(error)

    def unknown_path(self) -> ErrorReply:
        return ErrorReply(status=404, body=b"404 page not found", media_type="text/plain")

    def wrong_method(self) -> ErrorReply:
        return ErrorReply(status=405, body=b"405 method not allowed", media_type="text/plain")

    def forbidden(self) -> ErrorReply:
        return ErrorReply(status=403, body=b"", media_type=None)


OLLAMA = OllamaDialect()

"""Ollama's dialect: the statuses and texts of its errors, and their envelope ``{"error": "…"}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from corral.api.http.dialects import Dialect
from corral.api.http.errors import ApiError, ErrorReply, shown_text
from corral.api.http.ollama.replies import ErrorEnvelope
from corral.api.http.ollama.schemas import COMPONENTS, SCHEMAS
from corral.core.errors import (
    Cancelled,
    CorralError,
    EngineDied,
    EngineStalled,
    InvalidOption,
    MistypedOption,
    ModelNotFound,
    PromptTooLong,
    ServerBusy,
)
from corral.core.scheduling.load_errors import LoadCrashed, LoadStalled

__all__ = ("OLLAMA", "PROMPT_TOO_LONG", "OllamaDialect")

PROMPT_TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
    "context length in settings, or use a model with a longer context length"
)

_TEXTS: Mapping[type[CorralError], str] = {
    PromptTooLong: PROMPT_TOO_LONG,
    Cancelled: "request canceled",
}
"""Texts that clients know word for word, whatever the error itself says."""

_STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, check ollama "
    "server logs for details"
)
_PREFIXES: Mapping[type[CorralError], str] = {
    LoadStalled: "timed out waiting for llama-server to start - ",
    LoadCrashed: "llama-server process has terminated: ",
    EngineDied: f"{_STOPPED}: ",
    EngineStalled: f"{_STOPPED}: ",
}
"""Texts that clients know as well, and after which Ollama says what happened."""

_MESSAGE_ALONE = (ModelNotFound, InvalidOption, ServerBusy)
"""Errors whose message is Ollama's own, so that no remedy is added to it."""


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
        known = _nearest(_TEXTS, error)
        if known is not None:
            return known
        said = error.message if isinstance(error, _MESSAGE_ALONE) else super().text(error)
        return (_nearest(_PREFIXES, error) or "") + said

    def unknown_path(self) -> ErrorReply:
        return ErrorReply(status=404, body=b"404 page not found", media_type="text/plain")

    def wrong_method(self) -> ErrorReply:
        return ErrorReply(status=405, body=b"405 method not allowed", media_type="text/plain")

    def forbidden(self) -> ErrorReply:
        return ErrorReply(status=403, body=b"", media_type=None)


def _nearest(texts: Mapping[type[CorralError], str], error: CorralError) -> str | None:
    """The text of the error's class, or of its nearest base class that has one."""
    return next((texts[kind] for kind in type(error).__mro__ if kind in texts), None)


OLLAMA = OllamaDialect()

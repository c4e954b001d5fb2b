"""What Ollama says about errors, on its own routes and on those of other APIs that it serves."""

from __future__ import annotations

from collections.abc import Mapping

from corral.core.errors import (
    Cancelled,
    CorralError,
    EngineDied,
    EngineStalled,
    MistypedOption,
    ModelNotFound,
    PromptTooLong,
)
from corral.core.scheduling.load_errors import LoadCrashed, LoadStalled
from corral.core.scheduling.scheduler import SERVER_BUSY

__all__ = ("PROMPT_TOO_LONG", "text_of")

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

_OLLAMAS_ERRORS = (ModelNotFound, MistypedOption)
_OLLAMAS_MESSAGES = frozenset({SERVER_BUSY})
"""Errors whose message is Ollama's own, so that no remedy is added to it."""


def text_of(error: CorralError) -> str:
    """The text that the client reads: Ollama's if it has one, otherwise message and remedy."""
    known = _nearest(_TEXTS, error)
    if known is not None:
        return known
    alone = isinstance(error, _OLLAMAS_ERRORS) or error.message in _OLLAMAS_MESSAGES or not error.remedy
    return (_nearest(_PREFIXES, error) or "") + (error.message if alone else f"{error.message}; {error.remedy}")


def _nearest(texts: Mapping[type[CorralError], str], error: CorralError) -> str | None:
    """The text of the error's class, or of its nearest base class that has one."""
    return next((texts[kind] for kind in type(error).__mro__ if kind in texts), None)

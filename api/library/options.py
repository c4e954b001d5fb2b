"""The keyword arguments of `Corral` and of its requests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from corral.api.library.tools import Tools
from corral.core.runtime import Runtime

__all__ = ("ELSEWHERE", "AnswerOptions", "ChatOptions", "CorralOptions", "GenerateOptions", "RequestOptions")


class CorralOptions(TypedDict, total=False):
    """The keyword arguments of `Corral` and `AsyncCorral`.

    `models` is a folder in Ollama's layout; `store` is another place for models, such as ``oci-layout:FOLDER``.
    `engine` names what runs the models, and `runner` where they run
    (``thread``, the default, or ``process``). `options` are the defaults of every request. `config` is a settings file
    to read instead of the usual one; `settings` maps dotted paths (``scheduler.max_loaded_models``) to values that
    override it. `runtime` is an existing runtime, which is used as it is and not closed.
    """

    models: str | os.PathLike[str]
    store: str
    engine: str
    runner: str
    options: Mapping[str, Any]
    config: str | os.PathLike[str]
    settings: Mapping[str, Any]
    runtime: Runtime


class RequestOptions(TypedDict, total=False):
    """The keyword arguments of every request: Ollama's `options` by name; `keep_alive` in seconds, as a string such as
    ``5m``, or -1 for no limit (if absent, the model's is not changed); and the `engine` to use.
    """

    options: Mapping[str, Any]
    keep_alive: str | float
    engine: str | None


class AnswerOptions(RequestOptions, total=False):
    """The keyword arguments of a request for text: a `system` prompt; `logprobs`, the number of alternatives to report
    for each token (0: only the chosen token; absent: no log-probabilities); the `format` of the answer, ``"json"``, a
    JSON Schema or a grammar; and `think`, whether the model thinks before it answers, or how hard (absent: if it can).

    With `truncate`, the default, what does not fit into the context is left out, the oldest messages first; without it,
    `PromptTooLong` is raised. Without `shift`, an answer that fills the context ends there.
    """

    system: str | None
    logprobs: int | None
    format: Literal["json"] | Mapping[str, Any] | None
    think: bool | Literal["low", "medium", "high", "max"] | None
    truncate: bool
    shift: bool | None


class ChatOptions(AnswerOptions, total=False):
    """The keyword arguments of a chat: the `tools` that the model may call (functions, or dicts as in OpenAI's API) and
    the `tool_choice`: ``"auto"``, ``"none"``, ``"required"``, or ``{"type": "function", "function": {"name": …}}``.

    With `run_tools`, the functions that the model calls are called, and it goes on with what they return, until it
    answers without a call; after `max_rounds` rounds of calls (by default 8), it has to.
    """

    tools: Tools | None
    tool_choice: str | Mapping[str, Any] | None
    run_tools: bool
    max_rounds: int


class GenerateOptions(AnswerOptions, total=False):
    """The keyword arguments of a request for the completion of a prompt.

    `raw`: without the model's chat template. `context`: the token ids of an earlier result (`GenerateResult.context`),
    which the prompt continues. `suffix`: the text that comes after the answer. `template`: a Go template to use
    instead of the model's chat template. `images` are bytes, base64 in strings, or paths.
    """

    raw: bool
    images: Sequence[bytes | str | os.PathLike[str]]
    context: Sequence[int]
    suffix: str | None
    template: str | None


def _own(kind: type[AnswerOptions]) -> Iterable[str]:
    return kind.__annotations__.keys() - AnswerOptions.__annotations__.keys()


ELSEWHERE: Mapping[str, Mapping[str, str]] = {
    "chat": dict.fromkeys(_own(GenerateOptions), "generate() has it")
    | {"images": "images belong to a message: {'role': 'user', 'content': …, 'images': […]}"},
    "generate": dict.fromkeys(_own(ChatOptions), "chat() has it"),
}
"""Keyword arguments that a method does not have, and where they belong."""

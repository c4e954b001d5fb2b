"""The response bodies of Ollama's native routes: keys in Ollama's order.

A field that has its default value is left out of the JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from corral.core.requests import messages as core
from corral.core.requests.outputs import TokenLogprob

__all__ = (
    "ChatReply",
    "DebugInfo",
    "Details",
    "EmbedReply",
    "EmbeddingReply",
    "ErrorEnvelope",
    "GenerateReply",
    "ListReply",
    "ListedModel",
    "Logprob",
    "ProcessReply",
    "Reply",
    "ReplyMessage",
    "RunningModelReply",
    "ShowReply",
    "StatusReply",
    "TensorReply",
    "ToolCallReply",
    "TopLogprobReply",
    "VersionReply",
    "logprobs_of",
    "tool_calls_of",
)


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of responses."""


class TopLogprobReply(Reply, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: tuple[int, ...]


class Logprob(Reply, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[TopLogprobReply, ...] = ()


class CalledFunction(Reply, frozen=True, kw_only=True):
    index: int
    name: str
    arguments: Mapping[str, Any]


class ToolCallReply(Reply, frozen=True, kw_only=True):
    id: str = ""
    function: CalledFunction


class DebugInfo(Reply, frozen=True, kw_only=True):
    """The prompt that a request would run with."""

    rendered_template: str
    image_count: int = 0


class GenerateReply(Reply, frozen=True, kw_only=True):
    """A chunk or whole answer of generate. Durations are nanoseconds.

    The fields from `cached_tokens` on are Corral's additions.
    """

    model: str
    remote_model: str = ""
    remote_host: str = ""
    created_at: str
    response: str
    thinking: str = ""
    done: bool
    done_reason: str = ""
    context: tuple[int, ...] = ()
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    tool_calls: tuple[ToolCallReply, ...] = ()
    logprobs: tuple[Logprob, ...] = ()
    cached_tokens: int = 0
    truncated: bool = False
    dropped_messages: int = 0
    dropped_tokens: int = 0
    ignored_options: tuple[str, ...] = ()
    format_valid: bool | None = None
    format_problem: str = ""
    warnings: tuple[str, ...] = ()
    debug_info: DebugInfo | None = msgspec.field(default=None, name="_debug_info")


class ReplyMessage(Reply, frozen=True, kw_only=True):
    role: str
    content: str
    thinking: str = ""
    tool_calls: tuple[ToolCallReply, ...] = ()


class ChatReply(Reply, frozen=True, kw_only=True):
    """A chunk or whole answer of chat; fields as in `GenerateReply`."""

    model: str
    remote_model: str = ""
    remote_host: str = ""
    created_at: str
    message: ReplyMessage
    done: bool
    done_reason: str = ""
    logprobs: tuple[Logprob, ...] = ()
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    cached_tokens: int = 0
    truncated: bool = False
    dropped_messages: int = 0
    dropped_tokens: int = 0
    ignored_options: tuple[str, ...] = ()
    format_valid: bool | None = None
    format_problem: str = ""
    warnings: tuple[str, ...] = ()
    debug_info: DebugInfo | None = msgspec.field(default=None, name="_debug_info")


class EmbedReply(Reply, frozen=True, kw_only=True):
    model: str
    embeddings: list[list[float]]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    ignored_options: tuple[str, ...] = ()


class EmbeddingReply(Reply, frozen=True, kw_only=True):
    embedding: list[float]


class Details(Reply, frozen=True, kw_only=True):
    parent_model: str
    format: str
    family: str
    families: tuple[str, ...] | None
    parameter_size: str
    quantization_level: str
    context_length: int = 0
    embedding_length: int = 0


class ListedModel(Reply, frozen=True, kw_only=True):
    name: str
    model: str
    remote_model: str = ""
    remote_host: str = ""
    modified_at: str
    size: int
    digest: str
    details: Details
    capabilities: tuple[str, ...] = ()


class ListReply(Reply, frozen=True, kw_only=True):
    models: list[ListedModel]


class RunningModelReply(Reply, frozen=True, kw_only=True):
    """A loaded model. `corral` describes what runs it: engine, runner, process, features."""

    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int
    corral: Mapping[str, Any]


class ProcessReply(Reply, frozen=True, kw_only=True):
    models: list[RunningModelReply]


class TensorReply(Reply, frozen=True, kw_only=True):
    name: str
    type: str
    shape: tuple[int, ...]


class ShowReply(Reply, frozen=True, kw_only=True):
    license: str = ""
    modelfile: str
    parameters: str = ""
    template: str = ""
    system: str = ""
    details: Details
    messages: tuple[ReplyMessage, ...] = ()
    remote_model: str = ""
    remote_host: str = ""
    model_info: Mapping[str, Any]
    projector_info: Mapping[str, Any] = {}
    tensors: tuple[TensorReply, ...] = ()
    capabilities: tuple[str, ...] = ()
    modified_at: str
    requires: str = ""
    corral: Mapping[str, Any] = {}


class VersionReply(Reply, frozen=True, kw_only=True):
    """`version` is the Ollama release whose API this is; `corral` is Corral's own version."""

    version: str
    corral: str


class StatusReply(Reply, frozen=True, kw_only=True):
    """A line of progress, and the whole answer if it is not streamed.

    Corral adds to the last line: `model`, the name of the model that a pull has stored, and `manifest`, the digest of
    what a push has published.
    """

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0
    model: str = ""
    manifest: str = ""


class ErrorEnvelope(Reply, frozen=True, kw_only=True):
    """What every error is wrapped in, and the last line of a stream that failed."""

    error: str


def logprobs_of(logprobs: Iterable[TokenLogprob]) -> tuple[Logprob, ...]:
    """Tokens that are part of a character are shown as U+FFFD; `bytes` has their actual bytes."""
    return tuple(
        Logprob(
            token=entry.token.decode("utf-8", "replace"),
            logprob=entry.logprob,
            bytes=tuple(entry.token),
            top_logprobs=tuple(
                TopLogprobReply(token=top.token.decode("utf-8", "replace"), logprob=top.logprob, bytes=tuple(top.token))
                for top in entry.top
            ),
        )
        for entry in logprobs
    )


def tool_calls_of(calls: Iterable[core.ToolCall]) -> tuple[ToolCallReply, ...]:
    return tuple(
        ToolCallReply(
            id=call.id or "", function=CalledFunction(index=call.index, name=call.name, arguments=call.arguments)
        )
        for call in calls
    )

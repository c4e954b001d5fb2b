"""The response bodies of OpenAI's routes, with all their keys, in the vendor's order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import TokenLogprob, ToolCallPiece, Usage

__all__ = (
    "ChatChoice",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatMessage",
    "ChoiceLogprobs",
    "ChunkChoice",
    "CompletionLogprobs",
    "EmbeddingList",
    "ErrorDetail",
    "ErrorObject",
    "ModelObject",
    "ModelObjects",
    "TextChoice",
    "TextCompletion",
    "TokenEntry",
    "ToolCallEntry",
    "UsageReply",
    "call_entries",
    "piece_entries",
    "token_entries",
)


FINGERPRINT = "fp_ollama"
"""What Ollama answers; some clients know it by this."""

_arguments = msgspec.json.Encoder().encode


class OpenAIReply(msgspec.Struct, frozen=True, kw_only=True):
    """Base of responses."""


class ErrorDetail(OpenAIReply, frozen=True, kw_only=True):
    """What went wrong: `param` is the field of the request, `code` a name for programs; None if there is none."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorObject(OpenAIReply, frozen=True, kw_only=True):
    """What every error is wrapped in."""

    error: ErrorDetail


class CachedTokens(OpenAIReply, frozen=True, kw_only=True):
    cached_tokens: int = 0


class ReasoningTokens(OpenAIReply, frozen=True, kw_only=True):
    reasoning_tokens: int = 0


class UsageReply(OpenAIReply, frozen=True, kw_only=True):
    """What an answer cost, in tokens. Those of several choices are counted together, their prompt once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens

    @classmethod
    def of(cls, usage: Usage, reasoning_tokens: int) -> UsageReply:
        return cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.generated_tokens,
            total_tokens=usage.prompt_tokens + usage.generated_tokens,
            prompt_tokens_details=CachedTokens(cached_tokens=usage.cached_tokens),
            completion_tokens_details=ReasoningTokens(reasoning_tokens=reasoning_tokens),
        )


class TopEntry(OpenAIReply, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: tuple[int, ...]


class TokenEntry(OpenAIReply, frozen=True, kw_only=True):
    """A token, if it is a part of a character shown as U+FFFD; `bytes` has its actual bytes."""

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[TopEntry, ...] = ()


class ChoiceLogprobs(OpenAIReply, frozen=True, kw_only=True):
    content: tuple[TokenEntry, ...]
    refusal: None = None


class CalledFunctionEntry(OpenAIReply, frozen=True, kw_only=True):
    """`arguments` is the text of a JSON object, in a chunk a piece of it: then only the first has the `name`."""

    name: str | UnsetType = UNSET
    arguments: str


class ToolCallEntry(OpenAIReply, frozen=True, kw_only=True):
    """A call, or in a chunk a piece of one: only the first has the `id`."""

    index: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: CalledFunctionEntry


class ChatMessage(OpenAIReply, frozen=True, kw_only=True, omit_defaults=True):
    """A message of the assistant, or what a chunk adds to it. What it does not have is left out."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: tuple[ToolCallEntry, ...] | UnsetType = UNSET


class ChatChoice(OpenAIReply, frozen=True, kw_only=True):
    index: int
    message: ChatMessage
    logprobs: ChoiceLogprobs | None = None
    finish_reason: str


class ChunkChoice(OpenAIReply, frozen=True, kw_only=True):
    index: int
    delta: ChatMessage
    logprobs: ChoiceLogprobs | UnsetType = UNSET
    finish_reason: str | None = None


class ChatCompletion(OpenAIReply, frozen=True, kw_only=True):
    """A whole answer. `corral` is what Corral has to add, and absent if that is nothing."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    system_fingerprint: str = FINGERPRINT
    choices: list[ChatChoice]
    usage: UsageReply
    corral: Mapping[str, Any] | UnsetType = UNSET


class ChatCompletionChunk(OpenAIReply, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str = FINGERPRINT
    choices: tuple[ChunkChoice, ...]
    usage: UsageReply | UnsetType = UNSET
    corral: Mapping[str, Any] | UnsetType = UNSET


class CompletionLogprobs(OpenAIReply, frozen=True, kw_only=True):
    """The log-probabilities of a text, token by token. `text_offset` counts characters of the answer."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(OpenAIReply, frozen=True, kw_only=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None


class TextCompletion(OpenAIReply, frozen=True, kw_only=True):
    """A whole answer, or a chunk of one."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    system_fingerprint: str = FINGERPRINT
    choices: list[TextChoice]
    usage: UsageReply | UnsetType = UNSET
    corral: Mapping[str, Any] | UnsetType = UNSET


class EmbeddingObject(OpenAIReply, frozen=True, kw_only=True):
    """`embedding` is a list of numbers, or base64 of little-endian float32."""

    object: str = "embedding"
    embedding: list[float] | str
    index: int


class EmbeddingUsage(OpenAIReply, frozen=True, kw_only=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(OpenAIReply, frozen=True, kw_only=True):
    """The answer of embeddings, for the API document: it is written from the bytes of the vectors."""

    object: str = "list"
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage


class ModelObject(OpenAIReply, frozen=True, kw_only=True):
    """A model of the store. `created` is when it was last changed, in seconds since 1970."""

    id: str
    object: str = "model"
    created: int
    owned_by: str


class ModelObjects(OpenAIReply, frozen=True, kw_only=True):
    object: str = "list"
    data: list[ModelObject]


def token_entries(logprobs: Iterable[TokenLogprob]) -> tuple[TokenEntry, ...]:
    return tuple(
        TokenEntry(
            token=entry.token.decode("utf-8", "replace"),
            logprob=entry.logprob,
            bytes=tuple(entry.token),
            top_logprobs=tuple(
                TopEntry(token=top.token.decode("utf-8", "replace"), logprob=top.logprob, bytes=tuple(top.token))
                for top in entry.top
            ),
        )
        for entry in logprobs
    )


def call_entries(calls: Iterable[ToolCall]) -> tuple[ToolCallEntry, ...]:
    return tuple(
        ToolCallEntry(
            index=call.index,
            id=call.id or f"call_{call.index}",
            type="function",
            function=CalledFunctionEntry(name=call.name, arguments=_arguments(call.arguments).decode()),
        )
        for call in calls
    )


def piece_entries(pieces: Iterable[ToolCallPiece]) -> tuple[ToolCallEntry, ...]:
    """What a chunk says of calls: id, type and name come once, as clients join all texts of a call."""
    return tuple(
        ToolCallEntry(index=piece.index, function=CalledFunctionEntry(arguments=piece.arguments))
        if not piece.name
        else ToolCallEntry(
            index=piece.index,
            id=piece.id or f"call_{piece.index}",
            type="function",
            function=CalledFunctionEntry(name=piece.name, arguments=piece.arguments),
        )
        for piece in pieces
    )

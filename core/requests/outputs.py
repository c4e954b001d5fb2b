"""What requests produce: `EngineOutput` goes from an engine to its driver, `Output` from a running model to its caller.

Both are open bases, like `Request`.
"""

from __future__ import annotations

from typing import Literal

from corral.core.errors import ErrorInfo
from corral.core.requests.messages import ToolCall
from corral.core.values import Value

__all__ = (
    "ContextShifted",
    "Delta",
    "Embedded",
    "EngineEmbedded",
    "EngineFailed",
    "EngineFinished",
    "EngineOutput",
    "EngineRanked",
    "FinishReason",
    "Finished",
    "Output",
    "Prefilled",
    "Ranked",
    "Started",
    "Token",
    "TokenLogprob",
    "ToolCallPiece",
    "TopLogprob",
    "Usage",
    "Vectors",
)

FinishReason = Literal["stop", "length"]


class Usage(Value, frozen=True, kw_only=True):
    """What a request cost. `prompt_tokens` includes `cached_tokens`, which did not have to be computed.

    `queued_ns` is the time before the engine began with the prompt, `prefill_ns` the time until the prompt was
    computed, and `decode_ns` the time from then to the end.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    queued_ns: int = 0
    prefill_ns: int = 0
    decode_ns: int = 0


class Vectors(Value, frozen=True, kw_only=True):
    """Vectors as little-endian float32 in row order: ``len(float32) == 4 * dimensions * count``."""

    dimensions: int
    float32: bytes

    @property
    def count(self) -> int:
        return len(self.float32) // (4 * self.dimensions) if self.dimensions else 0


class TopLogprob(Value, frozen=True, kw_only=True):
    """One alternative: its text as bytes (a token may be part of a character) and its natural log-probability."""

    token: bytes
    logprob: float


class TokenLogprob(Value, frozen=True, kw_only=True):
    """The chosen token, and the requested number of alternatives, most likely first."""

    token: bytes
    logprob: float
    top: tuple[TopLogprob, ...] = ()


# ── Output: what `RunningModel.run` yields ────────────────────────────────────────────────────────────────────────


class Output(Value, frozen=True, kw_only=True):
    """Open base. A run yields at most one `Started`, then `Delta`s, then `Finished`; or one `Embedded` or `Ranked`."""


class Started(Output, frozen=True, kw_only=True):
    """The prompt is in memory. `dropped_tokens` were cut to make it fit; `ignored_options` had no effect.

    `prompt_tokens` is None if the engine only knows it at the end, as remote ones do.
    """

    prompt_tokens: int | None
    cached_tokens: int = 0
    dropped_tokens: int = 0
    ignored_options: tuple[str, ...] = ()


class ToolCallPiece(Value, frozen=True, kw_only=True):
    """More of a tool call that is being written: `arguments` is a piece of the JSON text of its arguments.

    The first piece of a call has its `name`; the others have none, and belong to the same call. `index` and `id` are
    those of the call, in each piece; core sets them. `problem`: why it is no call after all, as the last piece of what
    was begun; core ends the answer with it, so callers never see one.
    """

    index: int = 0
    id: str | None = None
    name: str = ""
    arguments: str = ""
    problem: str = ""


class Delta(Output, frozen=True, kw_only=True):
    """More of an answer: visible text, thinking, tool calls, or several of these.

    Texts contain whole characters only. All of them are empty while the text of a token is held back. If both are
    present, the thinking comes first. `warnings` say what was wrong with the text, for a log and for the reply.

    `tool_calls` are complete. `tool_call_pieces` come before them, and only if the request asks for them
    (`ChatRequest.tool_calls_in_pieces`): then every call comes in pieces, at least in one, and is in `tool_calls` as
    well once it is complete, in the delta of its last piece or later. The pieces of a call follow each other, with no
    other call between them, and their `arguments` together are a JSON text of the call's arguments.
    """

    text: str = ""
    thinking: str = ""
    tool_call_pieces: tuple[ToolCallPiece, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    token_count: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    warnings: tuple[str, ...] = ()


class Embedded(Output, frozen=True, kw_only=True):
    """The vectors of an `EmbedRequest`, one per input, in order, as the model returns them (not normalised)."""

    vectors: Vectors
    prompt_tokens: int


class Ranked(Output, frozen=True, kw_only=True):
    """The scores of a `RerankRequest`, one per document, in order: the higher, the better the document answers.

    A score is the model's log-odds that the document is relevant: 0 is undecided, and the logistic function makes a
    probability of it. `prompt_tokens` counts the query once for each document.
    """

    scores: tuple[float, ...]
    prompt_tokens: int


class Finished(Output, frozen=True, kw_only=True):
    """The last output. `token_ids` are those of prompt and answer, if requested. `warnings` are those of all deltas,
    and what else the caller should know about the answer.
    `stop` is the stop string that ended the answer, empty if none did, or if it is not known, as of remote models.

    `dropped_messages` is how many messages of a chat were left out because it did not fit into the context, and
    `dropped_tokens` how many tokens of prompt and answer were dropped from it.

    `format_valid`: whether the answer fits its JSON Schema, and `format_problem` what is wrong if not. None if there
    was no schema, or if it could not be checked: then `format_problem` says why.
    """

    reason: FinishReason
    usage: Usage
    stop: str = ""
    token_ids: tuple[int, ...] = ()
    dropped_messages: int = 0
    dropped_tokens: int = 0
    warnings: tuple[str, ...] = ()
    format_valid: bool | None = None
    format_problem: str = ""


# ── EngineOutput: what an engine gives its driver ─────────────────────────────────────────────────────────────────


class EngineOutput(Value, frozen=True, kw_only=True):
    """Open base. A completion gives `Prefilled`, `Token`s, then `EngineFinished`; or `EngineFailed` at any point."""


class Prefilled(EngineOutput, frozen=True, kw_only=True):
    """The prompt has been computed; tokens follow.

    `prompt_ids` are given if the request asks for ids. `prefill_ns` is how long ago the engine began with the prompt;
    None counts the time that the request waited for its turn as prefill.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    dropped_tokens: int = 0
    ignored_options: tuple[str, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    prefill_ns: int | None = None


class Token(EngineOutput, frozen=True, kw_only=True):
    """One token. `piece` is its text, possibly part of a character. A text-only engine has no `token_id`.

    The token that ends the answer (EOS) is reported too, with an empty piece, and counted.
    """

    token_id: int | None
    piece: bytes
    logprob: TokenLogprob | None = None


class ContextShifted(EngineOutput, frozen=True, kw_only=True):
    """The context was full: this many of the oldest tokens were dropped from it."""

    dropped_tokens: int


class EngineEmbedded(EngineOutput, frozen=True, kw_only=True):
    """The answer to an `EmbedRequest`; the request is over."""

    vectors: Vectors
    prompt_tokens: int


class EngineRanked(EngineOutput, frozen=True, kw_only=True):
    """The answer to a `RerankRequest`, with scores as in `Ranked`; the request is over."""

    scores: tuple[float, ...]
    prompt_tokens: int


class EngineFinished(EngineOutput, frozen=True, kw_only=True):
    """The engine itself ended the request: EOS, or the context is full."""

    reason: FinishReason


class EngineFailed(EngineOutput, frozen=True, kw_only=True):
    """This request failed; others continue."""

    error: ErrorInfo

"""Answers in the form of OpenAI's HTTP API: chunks of a chat or a completion, and vectors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec

from corral.adapters.engines.upstream.exchange import Exchange
from corral.adapters.engines.upstream.progress import Progress, credible
from corral.adapters.engines.upstream.refusals import message_of, told
from corral.adapters.engines.upstream.tool_calls import Fragment, ToolCallFragments
from corral.adapters.engines.upstream.vectors import packed
from corral.core.errors import UpstreamError
from corral.core.malformed import MALFORMED
from corral.core.outputs import Embedded, Output, TokenLogprob, TopLogprob

__all__ = ("read_answer", "read_vectors")

_DONE = b"[DONE]"
_LOGPROB_FLOOR = -9999.0


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Fragment] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Timings(msgspec.Struct):
    """llama-server's own."""

    prompt_ms: float = 0.0
    predicted_ms: float = 0.0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: Any = None


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage | None = None


_chunk = msgspec.json.Decoder(_Chunk)
_vectors = msgspec.json.Decoder(_Vectors)


async def read_answer(
    events: AsyncIterator[bytes], exchange: Exchange, address: str, *, chat: bool
) -> AsyncGenerator[Output, None]:
    """`Started` with the first of the answer, deltas, `Finished`. Raises `UpstreamError` for one that is malformed or
    ends without a finish reason."""
    progress = Progress(exchange, chat=chat)
    calls = ToolCallFragments(address)
    reason: str | None = None
    async for data in events:
        if data.strip() == _DONE:
            break
        try:
            chunk = _chunk.decode(data)
        except MALFORMED as error:
            raise UpstreamError(f"{address}: a chunk that is malformed: {error}: {message_of(data)[:100]}") from error
        if chunk.error is not None:
            raise told(address, message_of(msgspec.json.encode({"error": chunk.error})))
        _count(progress, chunk)
        for choice in (chunk.choices or ())[:1]:
            delta = choice.delta
            thinking = delta.reasoning_content or delta.reasoning or ""
            text = choice.text or delta.content or ""
            calls.add(delta.tool_calls or ())
            logprobs = _logprobs(choice.logprobs, exchange.logprobs)
            if text or thinking or logprobs:
                for output in progress.more(text, thinking, logprobs=logprobs):
                    yield output
            reason = choice.finish_reason or reason
    if reason is None:
        raise UpstreamError(f"{address} ended its answer without a finish reason", "see its own log")
    if reason in ("abort", "error"):
        raise UpstreamError(f"{address} gave the answer up ({reason})", "see its own log")
    for output in progress.end("length" if reason == "length" else "stop", calls.complete(cut=reason == "length")):
        yield output


def read_vectors(data: bytes, address: str, count: int) -> Embedded:
    """Raises `UpstreamError` where it is not one vector for each of `count` texts."""
    try:
        answer = _vectors.decode(data)
    except MALFORMED as error:
        raise UpstreamError(f"{address}: vectors that are malformed: {error}") from error
    rows = [vector.embedding for vector in sorted(answer.data, key=lambda vector: vector.index)]
    tokens = answer.usage.prompt_tokens if answer.usage else None
    return Embedded(vectors=packed(rows, count, address), prompt_tokens=credible(tokens or 0))


def _count(progress: Progress, chunk: _Chunk) -> None:
    if chunk.usage is not None:
        details = chunk.usage.prompt_tokens_details
        progress.prompt_tokens = chunk.usage.prompt_tokens or 0
        progress.cached_tokens = (details.cached_tokens if details else None) or 0
        progress.generated_tokens = chunk.usage.completion_tokens
    if chunk.timings is not None:
        progress.prefill_ns = chunk.timings.prompt_ms * 1e6
        progress.decode_ns = chunk.timings.predicted_ms * 1e6


def _logprobs(found: Any, wanted: int | None) -> tuple[TokenLogprob, ...]:
    """Both forms: a list of entries, and the older lists side by side. What is no log-probability is passed over."""
    if wanted is None or not isinstance(found, dict):
        return ()
    try:
        if found.get("content") is not None:
            return tuple(_entry(entry, wanted) for entry in found["content"])
        tops = found.get("top_logprobs") or [{}] * len(found["tokens"])
        return tuple(
            TokenLogprob(
                token=token.encode(),
                logprob=max(logprob or 0.0, _LOGPROB_FLOOR),
                top=tuple(TopLogprob(token=text.encode(), logprob=value) for text, value in (top or {}).items())[
                    :wanted
                ],
            )
            for token, logprob, top in zip(found["tokens"], found["token_logprobs"], tops, strict=True)
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()


def _entry(entry: Any, wanted: int) -> TokenLogprob:
    top = tuple(TopLogprob(token=_token(one), logprob=float(one["logprob"])) for one in entry.get("top_logprobs") or ())
    return TokenLogprob(token=_token(entry), logprob=float(entry["logprob"]), top=top[:wanted])


def _token(entry: Any) -> bytes:
    return bytes(entry["bytes"]) if entry.get("bytes") else str(entry["token"]).encode()

"""Answers in the form of OpenAI's HTTP API: chunks of a chat or a completion, and vectors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec

from corral.adapters.engines.upstream.answer_tracking import AnswerProgress, credible
from corral.adapters.engines.upstream.api_request import Exchange
from corral.adapters.engines.upstream.refusals import error_in_answer, message_of
from corral.adapters.engines.upstream.tool_calls import Fragment, ToolCallFragments
from corral.adapters.engines.upstream.vectors import check_size, packed
from corral.core.errors import CorralError, UpstreamError
from corral.core.malformed import MALFORMED
from corral.core.requests.outputs import Embedded, Output, TokenLogprob, TopLogprob

__all__ = ("read_answer", "read_vectors")

_DONE = b"[DONE]"
_LOGPROB_FLOOR = -9999.0
_NOTHING = msgspec.Raw(b"null")


class _Part(msgspec.Struct):
    """A part of content that is a list. Mistral's thinking is in turn a list of such parts."""

    type: str = "text"
    text: str | None = None
    thinking: str | list[_Part] | None = None


class _Delta(msgspec.Struct):
    content: str | list[_Part | None] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Fragment | None] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: msgspec.Raw = _NOTHING  # not decoded unless requested


class _PromptDetails(msgspec.Struct):
    cached_tokens: float | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Timings(msgspec.Struct):
    """An extension of llama-server."""

    prompt_ms: float | None = None
    predicted_ms: float | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice | None] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: msgspec.Raw = _NOTHING


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage | None = None


_chunk = msgspec.json.Decoder(_Chunk | None)
_vectors = msgspec.json.Decoder(_Vectors)


async def read_answer(
    events: AsyncIterator[bytes], exchange: Exchange, progress: AnswerProgress
) -> AsyncGenerator[Output, None]:
    """`Started` at the beginning of the answer, deltas, `Finished`.

    Raises `UpstreamError` for an answer that is malformed or ends without a finish reason, and the error
    that the server sends instead of an answer.
    """
    address = progress.address
    calls = ToolCallFragments(address)
    reason: str | None = None
    async for data in events:
        if data.strip() == _DONE:
            break
        try:
            chunk = _chunk.decode(data)
        except MALFORMED as error:
            raise UpstreamError(f"{address}: malformed chunk: {error}: {message_of(data)[:100]}") from error
        if chunk is None:
            progress.idle(len(data))
            continue
        if (chunk.choices is None or chunk.error != _NOTHING) and (refused := _error(exchange, address, data)):
            raise refused
        _count(progress, chunk)
        choice = chunk.choices[0] if chunk.choices else None
        if choice is None:
            progress.idle(len(data))
            continue
        delta = choice.delta or _Delta()
        said, thought = _texts(delta.content)
        thinking = delta.reasoning_content or delta.reasoning or thought
        text = choice.text or said
        calls.add(delta.tool_calls or ())
        logprobs = _logprobs(choice.logprobs, exchange.logprobs)
        if text or thinking or logprobs:
            for output in progress.more(text, thinking, logprobs=logprobs):
                yield output
        elif not delta.tool_calls:
            progress.idle(len(data))
        reason = "length" if progress.is_full else choice.finish_reason or reason
        if progress.is_full:
            break
    if reason is None:
        raise UpstreamError(f"{address} ended its answer without a finish reason", "see that server's log")
    if reason in ("abort", "error"):
        raise UpstreamError(f"{address} aborted the answer ({reason})", "see that server's log")
    for output in progress.end("length" if reason == "length" else "stop", calls.complete()):
        yield output


def read_vectors(data: bytes, address: str, count: int) -> Embedded:
    """Raises `UpstreamError` unless there is one vector for each of `count` texts."""
    check_size(data, count, address)
    try:
        answer = _vectors.decode(data)
    except MALFORMED as error:
        raise UpstreamError(f"{address}: malformed vectors: {error}") from error
    rows = [vector.embedding for vector in sorted(answer.data, key=lambda vector: vector.index)]
    tokens = answer.usage.prompt_tokens if answer.usage else None
    return Embedded(vectors=packed(rows, count, address), prompt_tokens=credible(tokens or 0))


def _error(exchange: Exchange, address: str, data: bytes) -> CorralError | None:
    return error_in_answer(address, exchange.path, exchange.body["model"], data)


def _texts(content: str | list[_Part | None] | None) -> tuple[str, str]:
    """The visible text and the thinking. Parts without text, such as images, are left out."""
    if content is None or isinstance(content, str):
        return content or "", ""
    parts = [part for part in content if part is not None]
    thoughts = [
        part.thinking if isinstance(part.thinking, str) else _texts(list(part.thinking or ()))[0] for part in parts
    ]
    return "".join([part.text or "" for part in parts]), "".join(thoughts)


def _count(progress: AnswerProgress, chunk: _Chunk) -> None:
    if chunk.usage is not None:
        details = chunk.usage.prompt_tokens_details
        progress.prompt_tokens = credible(chunk.usage.prompt_tokens or 0)
        progress.cached_tokens = credible((details.cached_tokens if details else None) or 0)
        reported = chunk.usage.completion_tokens
        progress.generated_tokens = None if reported is None else credible(reported)
    if chunk.timings is not None:
        progress.prefill_ns = (chunk.timings.prompt_ms or 0) * 1e6
        progress.decode_ns = (chunk.timings.predicted_ms or 0) * 1e6


def _logprobs(raw: msgspec.Raw, wanted: int | None) -> tuple[TokenLogprob, ...]:
    """Reads both forms: a list of entries, and the older parallel lists. Other entries are skipped."""
    if wanted is None:
        return ()
    try:
        found = msgspec.json.decode(raw)
        if not isinstance(found, dict):
            return ()
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
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return ()


def _entry(entry: Any, wanted: int) -> TokenLogprob:
    top = tuple(TopLogprob(token=_token(one), logprob=float(one["logprob"])) for one in entry.get("top_logprobs") or ())
    return TokenLogprob(token=_token(entry), logprob=float(entry["logprob"]), top=top[:wanted])


def _token(entry: Any) -> bytes:
    return bytes(entry["bytes"]) if entry.get("bytes") else str(entry["token"]).encode()

"""Ollama's API, which other Corral servers have too: requests, and answers line by line.

https://docs.ollama.com/api
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from corral.adapters.engines.upstream.answer_tracking import AnswerProgress, credible
from corral.adapters.engines.upstream.api_request import (
    Exchange,
    format_of,
    plain_text,
    schema_of,
    tool_choice_entry,
    tool_entry,
)
from corral.adapters.engines.upstream.options import mapped_context, mapped_sampling
from corral.adapters.engines.upstream.refusals import error_in_answer, message_of
from corral.adapters.engines.upstream.tool_calls import call_delta
from corral.adapters.engines.upstream.vectors import check_size, packed
from corral.core.errors import UpstreamError
from corral.core.malformed import MALFORMED
from corral.core.requests.messages import Message, ToolCall
from corral.core.requests.outputs import Delta, Embedded, Output, TokenLogprob, TopLogprob
from corral.core.requests.prompts import MediaPart, TextPart
from corral.core.requests.requests import ChatRequest, CompletionRequest

__all__ = ("chat_exchange", "completion_exchange", "embed_exchange", "read_answer", "read_vectors")

_NOTHING = msgspec.Raw(b"null")
_CALL_COST = 4  # for each byte of a line with tool calls: decoded, JSON takes many times its length


def chat_exchange(request: ChatRequest, model: str, api: str) -> Exchange:
    body: dict[str, Any] = {"messages": [_message(message) for message in request.messages]}
    unheld: tuple[str, ...] = ()
    if request.tools:
        body["tools"] = [tool_entry(tool) for tool in request.tools]
        choice = tool_choice_entry(request.tool_choice)
        if api == "corral":
            body |= choice
        else:  # Ollama has neither
            unheld = (*choice, *(("tools: strict",) if any(tool.strict for tool in request.tools) else ()))
    if request.think is not None:
        body["think"] = request.think
    exchange = _exchange("/api/chat", body, request, model, api)
    return msgspec.structs.replace(exchange, ignored=(*exchange.ignored, *unheld))


def completion_exchange(request: CompletionRequest, model: str, api: str) -> Exchange:
    images = [part.data for part in request.prompt if isinstance(part, MediaPart)]
    numbers = itertools.count()
    texts = (
        TextPart(text=f"[img-{next(numbers)}]") if isinstance(part, MediaPart) else part for part in request.prompt
    )
    body: dict[str, Any] = {"prompt": plain_text(tuple(texts)), "raw": True}
    if images:
        body["images"] = images  # which become base64
    return _exchange("/api/generate", body, request, model, api)


def embed_exchange(texts: Sequence[str], model: str, *, truncate: bool, num_ctx: int | None) -> Exchange:
    options = {} if num_ctx is None else {"options": {"num_ctx": num_ctx}}
    body: dict[str, Any] = {"model": model, "input": list(texts), "truncate": truncate} | options
    return Exchange(path="/api/embed", body=body)


def _exchange(
    path: str, body: dict[str, Any], request: ChatRequest | CompletionRequest, model: str, api: str
) -> Exchange:
    sampling, ignored = mapped_sampling(request.sampling, api)
    context, _ = mapped_context(request.context, api)
    options = sampling | context
    budget = request.thinking_budget if isinstance(request, ChatRequest) else None
    if budget is not None and api == "corral":
        options["thinking_budget"] = budget
    elif budget is not None:
        ignored = (*ignored, "thinking_budget")
    body |= {"model": model, "stream": True, "options": options}
    if not request.context.shift:
        body["shift"] = False
    if not request.context.truncate:
        body["truncate"] = False
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    if request.constraint is not None:
        body["format"] = format_of(request.constraint) if api == "corral" else schema_of(request.constraint)
    return Exchange(path=path, body=body, ignored=ignored, logprobs=request.logprobs)


def _message(message: Message) -> dict[str, Any]:
    entry: dict[str, Any] = {"role": message.role, "content": message.content}
    for field in ("images", "thinking", "tool_name", "tool_call_id"):
        if getattr(message, field):
            entry[field] = getattr(message, field)
    if message.tool_calls:
        entry["tool_calls"] = [
            {"function": {"index": call.index, "name": call.name, "arguments": call.arguments}}
            | ({"id": call.id} if call.id else {})
            for call in message.tool_calls
        ]
    return entry


class _Function(msgspec.Struct):
    name: str = ""
    arguments: dict[str, Any] | str | None = None


class _Call(msgspec.Struct):
    function: _Function
    id: str = ""


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call | None] | None = None


class _Top(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[Annotated[int, Meta(ge=0, le=255)]] | None = None


class _Logprob(_Top):
    top_logprobs: list[_Top] | None = None


class _Line(msgspec.Struct):
    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    done: bool = False
    done_reason: str | None = None
    logprobs: list[_Logprob] | None = None
    prompt_eval_count: float | None = None
    prompt_eval_duration: float | None = None
    eval_count: float | None = None
    eval_duration: float | None = None
    cached_tokens: float | None = None
    ignored_options: list[str] | None = None
    dropped_messages: float | None = None
    dropped_tokens: float | None = None
    warnings: list[str] | None = None
    error: msgspec.Raw = _NOTHING
    detail: msgspec.Raw = _NOTHING


class _Vectors(msgspec.Struct):
    embeddings: list[list[float]]
    prompt_eval_count: int = 0


_line = msgspec.json.Decoder(_Line | None)
_vectors = msgspec.json.Decoder(_Vectors)


async def read_answer(
    lines: AsyncIterator[bytes], exchange: Exchange, progress: AnswerProgress
) -> AsyncGenerator[Output, None]:
    """`Started` at the beginning of the answer, deltas, `Finished`.

    Raises `UpstreamError` for an answer that is malformed or has no last line, and the error
    that the server sends instead of an answer.
    """
    address = progress.address
    async for data in lines:
        if not data.strip():
            progress.idle(len(data))
            continue
        try:
            line = _line.decode(data)
        except MALFORMED as error:
            raise UpstreamError(f"{address}: malformed line: {error}: {message_of(data)[:100]}") from error
        if line is None:
            progress.idle(len(data))
            continue
        has_error = (line.error, line.detail) != (_NOTHING, _NOTHING)
        if has_error and (refused := error_in_answer(address, exchange.path, exchange.body["model"], data)):
            raise refused
        message = line.message or _Message(content=line.response, thinking=line.thinking)
        found = [_call(call) for call in message.tool_calls or () if call is not None]
        if found:
            progress.hold(_CALL_COST * len(data))
        logprobs = tuple(_logprob(entry, exchange.logprobs or 0) for entry in line.logprobs or ())
        calls = tuple(call for one in found for call in one.tool_calls)
        unread = "".join([one.text for one in found])
        warnings = tuple(warning for one in found for warning in one.warnings)
        text = f"{message.content or ''}{unread}"
        if text or message.thinking or calls or logprobs:
            for output in progress.more(text, message.thinking or "", calls, warnings=warnings, logprobs=logprobs):
                yield output
        else:
            progress.idle(len(data))
        if progress.is_full:
            for output in progress.end("length"):
                yield output
            return
        if line.done:
            _count(progress, line)
            progress.ignored_there = tuple(line.ignored_options or ())
            progress.warnings = tuple(line.warnings or ())
            for output in progress.end("length" if line.done_reason == "length" else "stop"):
                yield output
            return
    raise UpstreamError(f"{address} ended its answer before the last line", "see that server's log")


def read_vectors(data: bytes, address: str, count: int) -> Embedded:
    """Raises `UpstreamError` unless there is one vector for each of `count` texts."""
    check_size(data, count, address)
    try:
        answer = _vectors.decode(data)
    except MALFORMED as error:
        raise UpstreamError(f"{address}: malformed vectors: {error}") from error
    return Embedded(vectors=packed(answer.embeddings, count, address), prompt_tokens=credible(answer.prompt_eval_count))


def _count(progress: AnswerProgress, line: _Line) -> None:
    progress.prompt_tokens = credible(line.prompt_eval_count or 0)
    progress.cached_tokens = credible(line.cached_tokens or 0)
    progress.dropped_messages = line.dropped_messages or 0
    progress.dropped_tokens = line.dropped_tokens or 0
    progress.generated_tokens = None if line.eval_count is None else credible(line.eval_count)
    progress.prefill_ns = line.prompt_eval_duration or 0
    progress.decode_ns = line.eval_duration or 0


def _call(call: _Call) -> Delta:
    found = call.function
    if isinstance(found.arguments, str):
        return call_delta(found.name, found.arguments, call.id)
    return Delta(tool_calls=(ToolCall(name=found.name, arguments=found.arguments or {}, id=call.id or None),))


def _logprob(entry: _Logprob, wanted: int) -> TokenLogprob:
    top = tuple(TopLogprob(token=_token(one), logprob=one.logprob) for one in entry.top_logprobs or ())
    return TokenLogprob(token=_token(entry), logprob=entry.logprob, top=top[:wanted])


def _token(entry: _Top) -> bytes:
    return bytes(entry.bytes) if entry.bytes else entry.token.encode()

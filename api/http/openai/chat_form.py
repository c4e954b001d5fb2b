"""Writes the answer to a chat: as chunks in events, or as one object."""

from __future__ import annotations

import secrets
import time

import msgspec
from msgspec import UNSET

from corral.api.http.dialects import Dialect
from corral.api.http.errors import ApiError
from corral.api.http.openai.dialect import OPENAI
from corral.api.http.openai.replies import (
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatMessage,
    ChoiceLogprobs,
    ChunkChoice,
    UsageReply,
    call_entries,
    piece_entries,
    token_entries,
)
from corral.api.http.openai.several import OfChoice
from corral.api.http.remarks import Remarks
from corral.api.http.sse import COMMENT, DONE, EVENT_STREAM, event
from corral.api.http.thinking_tokens import ThinkingTokens
from corral.core.models.model import StoredModel
from corral.core.requests.outputs import Delta, Finished, Output, Started

__all__ = ("ChatForm",)

_encode = msgspec.json.Encoder().encode


class _Told(msgspec.Struct):
    """What a choice has said so far."""

    begun: bool = False
    called: bool = False
    thinking: ThinkingTokens = msgspec.field(default_factory=ThinkingTokens)

    def hear(self, delta: Delta) -> None:
        self.called = self.called or bool(delta.tool_calls)
        self.thinking.hear(delta)

    def reason(self, finished: Finished) -> str:
        return "tool_calls" if self.called and finished.reason == "stop" else finished.reason


class ChatForm:
    """The answer of one request, with `choices` of them. `model` is the name that the client sent.

    A chunk with nothing but text, like nearly all, is assembled from bytes that are encoded once per stream.
    """

    dialect: Dialect = OPENAI
    stream_type = EVENT_STREAM
    ping = COMMENT

    def __init__(self, model: str, remarks: Remarks, *, choices: int = 1, include_usage: bool = False) -> None:
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._model = model
        self._remarks = remarks
        self._include_usage = include_usage
        self._told = [_Told() for _ in range(choices)]
        whole = _encode(self._chunk())
        head = b"data: " + whole[: whole.rindex(b"[]") + 1]
        self._before = [head + b'{"index":%d,"delta":{"content":' % index for index in range(choices)]

    def begin(self, record: StoredModel) -> None:
        pass

    def headers(self) -> list[tuple[bytes, bytes]]:
        return self._remarks.headers()

    def part(self, output: Output, load_ns: int) -> bytes | None:
        if isinstance(output, Delta):
            return self._delta(0, output)
        if isinstance(output, OfChoice):
            inner = output.output
            if isinstance(inner, Delta):
                return self._delta(output.index, inner)
            if isinstance(inner, Finished):
                return self._finish(output.index, inner)
            if isinstance(inner, Started) and output.index == 0:
                self._remarks.started(inner)
            return None
        if isinstance(output, Started):
            self._remarks.started(output)
        if isinstance(output, Finished):
            last = self._finish(0, output) if len(self._told) == 1 else b""
            return last + self._usage_chunk(output) + DONE
        return None

    def failed(self, problem: ApiError) -> bytes:
        return event(OPENAI.body(problem))

    def whole(self, outputs: list[Output], load_ns: int) -> bytes:
        heard: list[list[Delta]] = [[] for _ in self._told]
        ends: dict[int, Finished] = {}
        for output in outputs:
            index, inner = (output.index, output.output) if isinstance(output, OfChoice) else (0, output)
            if isinstance(inner, Started) and index == 0:
                self._remarks.started(inner)
            elif isinstance(inner, Delta):
                heard[index].append(inner)
                self._told[index].hear(inner)
            elif isinstance(inner, Finished) and (isinstance(output, OfChoice) or len(self._told) == 1):
                ends[index] = inner
        last = outputs[-1]
        assert isinstance(last, Finished)
        return _encode(
            ChatCompletion(
                id=self._id,
                created=self._created,
                model=self._model,
                choices=[self._choice(index, deltas, ends[index]) for index, deltas in enumerate(heard)],
                usage=self._usage(last),
                corral=self._remarks.of(ends[0]) or UNSET,
            )
        )

    def _choice(self, index: int, deltas: list[Delta], end: Finished) -> ChatChoice:
        thinking = "".join([delta.thinking for delta in deltas])
        calls = [call for delta in deltas for call in delta.tool_calls]
        logprobs = [one for delta in deltas for one in delta.logprobs]
        return ChatChoice(
            index=index,
            message=ChatMessage(
                role="assistant",
                content="".join([delta.text for delta in deltas]),
                reasoning=thinking or UNSET,
                tool_calls=call_entries(calls) or UNSET,
            ),
            logprobs=ChoiceLogprobs(content=token_entries(logprobs)) if logprobs else None,
            finish_reason=self._told[index].reason(end),
        )

    def _delta(self, index: int, delta: Delta) -> bytes | None:
        told = self._told[index]
        told.hear(delta)
        calls = delta.tool_call_pieces
        if told.begun and delta.text and not (delta.thinking or calls or delta.logprobs):
            return b"".join((self._before[index], _encode(delta.text), b'},"finish_reason":null}]}\n\n'))
        if not (delta.text or delta.thinking or calls or delta.logprobs):
            return None
        logprobs = ChoiceLogprobs(content=token_entries(delta.logprobs)) if delta.logprobs else UNSET
        parts: list[ChatMessage] = []
        if delta.thinking:
            parts.append(ChatMessage(content="", reasoning=delta.thinking))
        if delta.text or not (delta.thinking or calls):
            parts.append(ChatMessage(content=delta.text))
        if calls:
            parts.append(ChatMessage(tool_calls=piece_entries(calls)))
        written = []
        for number, part in enumerate(parts):
            if not told.begun:
                told.begun = True
                part = msgspec.structs.replace(part, role="assistant", content=part.content or "")
            choice = ChunkChoice(index=index, delta=part, logprobs=UNSET if number else logprobs)
            written.append(event(_encode(self._chunk(choice))))
        return b"".join(written)

    def _finish(self, index: int, finished: Finished) -> bytes:
        told = self._told[index]
        first = b""
        if not told.begun:
            told.begun = True
            opening = ChatMessage(role="assistant", content="")
            first = event(_encode(self._chunk(ChunkChoice(index=index, delta=opening))))
        chunk = self._chunk(ChunkChoice(index=index, delta=ChatMessage(), finish_reason=told.reason(finished)))
        if index == 0 and (remarks := self._remarks.of(finished)):
            chunk = msgspec.structs.replace(chunk, corral=remarks)
        return first + event(_encode(chunk))

    def _usage_chunk(self, finished: Finished) -> bytes:
        if not self._include_usage:
            return b""
        return event(_encode(msgspec.structs.replace(self._chunk(), usage=self._usage(finished))))

    def _usage(self, finished: Finished) -> UsageReply:
        return UsageReply.of(finished.usage, sum(told.thinking.count for told in self._told))

    def _chunk(self, *choices: ChunkChoice) -> ChatCompletionChunk:
        return ChatCompletionChunk(id=self._id, created=self._created, model=self._model, choices=choices)

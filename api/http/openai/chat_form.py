"""Writes the answer to a chat: as chunks in events, or as one object."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from corral.api.http.openai.choices_form import ChoicesForm
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
from corral.api.http.remarks import Remarks
from corral.api.http.sse import event
from corral.core.requests.outputs import Delta, Finished

__all__ = ("ChatForm",)

_encode = msgspec.json.Encoder().encode


class _Told(msgspec.Struct):
    """What a choice has said so far."""

    begun: bool = False
    called: bool = False

    def reason(self, finished: Finished) -> str:
        return "tool_calls" if self.called and finished.reason == "stop" else finished.reason


class ChatForm(ChoicesForm):
    """A chunk with nothing but text, like nearly all, is assembled from bytes that are encoded once per stream."""

    def __init__(self, model: str, remarks: Remarks, *, choices: int = 1, include_usage: bool = False) -> None:
        super().__init__("chatcmpl", model, remarks, choices, include_usage=include_usage)
        self._told = [_Told() for _ in range(choices)]
        whole = _encode(self._chunk())
        head = b"data: " + whole[: whole.rindex(b"[]") + 1]
        self._before = [head + b'{"index":%d,"delta":{"content":' % index for index in range(choices)]

    def _whole(self, choices: list[tuple[list[Delta], Finished]], usage: UsageReply) -> bytes:
        return _encode(
            ChatCompletion(
                id=self._id,
                created=self._created,
                model=self._model,
                choices=[self._choice(index, deltas, end) for index, (deltas, end) in enumerate(choices)],
                usage=usage,
                corral=self._remarks.of(choices[0][1]) or UNSET,
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
            finish_reason=_Told(called=bool(calls)).reason(end),
        )

    def _delta(self, index: int, delta: Delta) -> bytes | None:
        told = self._told[index]
        told.called = told.called or bool(delta.tool_calls)
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

    def _usage_chunk(self, usage: UsageReply) -> bytes:
        return _encode(msgspec.structs.replace(self._chunk(), usage=usage))

    def _chunk(self, *choices: ChunkChoice) -> ChatCompletionChunk:
        return ChatCompletionChunk(id=self._id, created=self._created, model=self._model, choices=choices)

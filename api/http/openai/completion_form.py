"""Writes the continuation of a text: as chunks in events, or as one object."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from corral.api.http.dialects import Dialect
from corral.api.http.errors import ApiError
from corral.api.http.openai.dialect import OPENAI
from corral.api.http.openai.replies import CompletionLogprobs, TextChoice, TextCompletion, UsageReply
from corral.api.http.openai.several import OfChoice
from corral.api.http.remarks import Remarks
from corral.api.http.sse import COMMENT, DONE, EVENT_STREAM, event
from corral.api.http.thinking_tokens import ThinkingTokens
from corral.core.models.model import StoredModel
from corral.core.requests.outputs import Delta, Finished, Output, Started, TokenLogprob

__all__ = ("CompletionForm",)

_encode = msgspec.json.Encoder().encode


class CompletionForm:
    """The answer of one request, a choice for each of `echoes`, with which its text begins. Thinking is left out."""

    dialect: Dialect = OPENAI
    stream_type = EVENT_STREAM
    ping = COMMENT

    def __init__(
        self, model: str, remarks: Remarks, echoes: Sequence[str] = ("",), *, include_usage: bool = False
    ) -> None:
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._model = model
        self._remarks = remarks
        self._include_usage = include_usage
        self._echoes = list(echoes)
        self._offsets = [0] * len(echoes)
        self._thinking = [ThinkingTokens() for _ in echoes]
        whole = _encode(self._completion([]))
        head = b"data: " + whole[: whole.rindex(b"[]") + 1]
        self._before = [head + b'{"index":%d,"text":' % index for index in range(len(echoes))]

    def begin(self, record: StoredModel) -> None:
        pass

    def headers(self) -> list[tuple[bytes, bytes]]:
        return self._remarks.headers()

    def part(self, output: Output, load_ns: int) -> bytes | None:
        if isinstance(output, Delta):
            return self._delta(0, output)
        if isinstance(output, OfChoice):
            if isinstance(output.output, Delta):
                return self._delta(output.index, output.output)
            if isinstance(output.output, Finished):
                return self._finish(output.index, output.output)
            if isinstance(output.output, Started) and not output.index:
                self._remarks.started(output.output)
            return None
        if isinstance(output, Started):
            self._remarks.started(output)
        if isinstance(output, Finished):
            last = self._finish(0, output) if len(self._before) == 1 else b""
            usage = b""
            if self._include_usage:
                chunk = self._completion([], usage=UsageReply.of(output.usage, self._reasoning_tokens))
                usage = event(_encode(chunk))
            return last + usage + DONE
        return None

    def failed(self, problem: ApiError) -> bytes:
        return event(OPENAI.body(problem))

    def whole(self, outputs: list[Output], load_ns: int) -> bytes:
        texts: list[list[str]] = [[echo] for echo in self._echoes]
        logprobs: list[list[TokenLogprob]] = [[] for _ in self._echoes]
        ends: dict[int, Finished] = {}
        for output in outputs:
            index, inner = (output.index, output.output) if isinstance(output, OfChoice) else (0, output)
            if isinstance(inner, Started) and not index:
                self._remarks.started(inner)
            elif isinstance(inner, Delta):
                self._thinking[index].hear(inner)
                texts[index].append(inner.text)
                logprobs[index].extend(inner.logprobs)
            elif isinstance(inner, Finished) and (isinstance(output, OfChoice) or len(self._before) == 1):
                ends[index] = inner
        last = outputs[-1]
        assert isinstance(last, Finished)
        choices = [
            TextChoice(
                index=index,
                text="".join(text),
                finish_reason=ends[index].reason,
                logprobs=self._logprobs(index, logprobs[index]),
            )
            for index, text in enumerate(texts)
        ]
        usage = UsageReply.of(last.usage, self._reasoning_tokens)
        return _encode(self._completion(choices, usage=usage, corral=self._remarks.of(ends[0]) or UNSET))

    def _delta(self, index: int, delta: Delta) -> bytes | None:
        self._thinking[index].hear(delta)
        echo, self._echoes[index] = self._echoes[index], ""
        text = echo + delta.text
        if delta.logprobs:
            choice = TextChoice(index=index, text=text, logprobs=self._logprobs(index, delta.logprobs))
            return event(_encode(self._completion([choice])))
        if not text:
            return None
        return b"".join((self._before[index], _encode(text), b',"logprobs":null,"finish_reason":null}]}\n\n'))

    def _finish(self, index: int, finished: Finished) -> bytes:
        echo, self._echoes[index] = self._echoes[index], ""
        choice = TextChoice(index=index, text=echo, finish_reason=finished.reason)
        remarks = {} if index else self._remarks.of(finished)
        return event(_encode(self._completion([choice], corral=remarks or UNSET)))

    @property
    def _reasoning_tokens(self) -> int:
        return sum(thinking.count for thinking in self._thinking)

    def _logprobs(
        self, index: int, entries: tuple[TokenLogprob, ...] | list[TokenLogprob]
    ) -> CompletionLogprobs | None:
        if not entries:
            return None
        tokens = [entry.token.decode("utf-8", "replace") for entry in entries]
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(token)
        return CompletionLogprobs(
            tokens=tokens,
            token_logprobs=[entry.logprob for entry in entries],
            top_logprobs=[
                {top.token.decode("utf-8", "replace"): top.logprob for top in entry.top} for entry in entries
            ],
            text_offset=offsets,
        )

    def _completion(self, choices: list[TextChoice], **fields: object) -> TextCompletion:
        return TextCompletion(id=self._id, created=self._created, model=self._model, choices=choices, **fields)  # type: ignore[arg-type]

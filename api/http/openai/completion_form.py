"""Writes the continuation of a text: as chunks in events, or as one object."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from corral.api.http.openai.choices_form import ChoicesForm
from corral.api.http.openai.replies import CompletionLogprobs, TextChoice, TextCompletion, UsageReply
from corral.api.http.remarks import Remarks
from corral.api.http.sse import event
from corral.core.requests.outputs import Delta, Finished, TokenLogprob

__all__ = ("CompletionForm",)

_encode = msgspec.json.Encoder().encode


class CompletionForm(ChoicesForm):
    """A choice for each of `echoes`, with which its text begins. Thinking is left out."""

    def __init__(
        self, model: str, remarks: Remarks, echoes: Sequence[str] = ("",), *, include_usage: bool = False
    ) -> None:
        super().__init__("cmpl", model, remarks, len(echoes), include_usage=include_usage)
        self._echoes = list(echoes)
        self._offsets = [0] * len(echoes)
        whole = _encode(self._completion([]))
        head = b"data: " + whole[: whole.rindex(b"[]") + 1]
        self._before = [head + b'{"index":%d,"text":' % index for index in range(len(echoes))]

    def _whole(self, choices: list[tuple[list[Delta], Finished]], usage: UsageReply) -> bytes:
        written = [self._choice(index, deltas, end) for index, (deltas, end) in enumerate(choices)]
        remarks = self._remarks.of(choices[0][1])
        return _encode(self._completion(written, usage=usage, corral=remarks or UNSET))

    def _choice(self, index: int, deltas: list[Delta], end: Finished) -> TextChoice:
        return TextChoice(
            index=index,
            text=self._echoes[index] + "".join([delta.text for delta in deltas]),
            finish_reason=end.reason,
            logprobs=self._logprobs(index, [one for delta in deltas for one in delta.logprobs]),
        )

    def _delta(self, index: int, delta: Delta) -> bytes | None:
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

    def _usage_chunk(self, usage: UsageReply) -> bytes:
        return _encode(self._completion([], usage=usage))

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

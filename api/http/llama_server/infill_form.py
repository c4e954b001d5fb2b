"""Writes what is filled in as llama-server does: as events while it comes, or as one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from corral.api.http.dialects import Dialect
from corral.api.http.errors import ApiError
from corral.api.http.llama_server.dialect import LLAMA_SERVER
from corral.api.http.remarks import Remarks
from corral.api.http.sse import COMMENT, EVENT_STREAM, event
from corral.core.models.model import StoredModel
from corral.core.requests.outputs import Delta, Finished, Output, Started, TokenLogprob, Usage

__all__ = ("InfillAnswer", "InfillForm")

_encode = msgspec.json.Encoder().encode
_NS_PER_MS = 1e6


class InfillTimings(msgspec.Struct, frozen=True, kw_only=True):
    """How many tokens of prompt and answer were computed, in which time."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float

    @classmethod
    def of(cls, usage: Usage) -> InfillTimings:
        prompt, predicted = usage.prompt_tokens - usage.cached_tokens, usage.generated_tokens
        prompt_ms, predicted_ms = usage.prefill_ns / _NS_PER_MS, usage.decode_ns / _NS_PER_MS
        return cls(
            cache_n=usage.cached_tokens,
            prompt_n=prompt,
            prompt_ms=prompt_ms,
            prompt_per_token_ms=prompt_ms / max(1, prompt),
            prompt_per_second=prompt / prompt_ms * 1000 if prompt_ms else 0.0,
            predicted_n=predicted,
            predicted_ms=predicted_ms,
            predicted_per_token_ms=predicted_ms / max(1, predicted),
            predicted_per_second=predicted / predicted_ms * 1000 if predicted_ms else 0.0,
        )


class InfillPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of the answer while it comes."""

    index: int
    content: str
    tokens: list[int]
    stop: bool
    id_slot: int
    tokens_predicted: int
    tokens_evaluated: int
    completion_probabilities: list[dict[str, Any]] = msgspec.field(default_factory=list)


class InfillAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole answer, or the end of a stream. `tokens` is empty: texts only."""

    index: int
    content: str
    tokens: list[int]
    id_slot: int
    stop: bool
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    has_new_line: bool
    truncated: bool
    stop_type: str
    stopping_word: str
    tokens_cached: int
    timings: InfillTimings
    completion_probabilities: list[dict[str, Any]] = msgspec.field(default_factory=list)
    corral: dict[str, Any] = msgspec.field(default_factory=dict)


class InfillForm:
    """The answer to one request. With `fields`, only those are written: ``a/b`` is the field ``b`` of ``a``."""

    dialect: Dialect = LLAMA_SERVER
    stream_type = EVENT_STREAM
    ping = COMMENT

    def __init__(self, model: str, remarks: Remarks, fields: Sequence[str] = ()) -> None:
        self._model = model
        self._remarks = remarks
        self._fields = fields
        self._predicted = 0
        self._evaluated = 0
        self._has_new_line = False

    def begin(self, record: StoredModel) -> None:
        pass

    def headers(self) -> list[tuple[bytes, bytes]]:
        return self._remarks.headers()

    def part(self, output: Output, load_ns: int) -> bytes | None:
        if isinstance(output, Finished):
            return event(self._answer("", output, []))
        if isinstance(output, Started):
            self._started(output)
        if not isinstance(output, Delta):
            return None
        self._hear(output)
        if not output.text and not output.logprobs:
            return None
        part = InfillPart(
            index=0,
            content=output.text,
            tokens=[],
            stop=False,
            id_slot=-1,
            tokens_predicted=self._predicted,
            tokens_evaluated=self._evaluated,
            completion_probabilities=_probabilities(output.logprobs),
        )
        return event(_encode(part))

    def failed(self, problem: ApiError) -> bytes:
        return event(LLAMA_SERVER.body(problem))

    def whole(self, outputs: list[Output], load_ns: int) -> bytes:
        logprobs: list[TokenLogprob] = []
        texts: list[str] = []
        for output in outputs:
            if isinstance(output, Started):
                self._started(output)
            elif isinstance(output, Delta):
                self._hear(output)
                texts.append(output.text)
                logprobs.extend(output.logprobs)
        finished = outputs[-1]
        assert isinstance(finished, Finished)
        return self._answer("".join(texts), finished, logprobs)

    def _started(self, output: Started) -> None:
        self._remarks.started(output)
        self._evaluated = output.prompt_tokens or 0

    def _hear(self, delta: Delta) -> None:
        self._predicted += delta.token_count
        self._has_new_line = self._has_new_line or "\n" in delta.text

    def _answer(self, text: str, finished: Finished, logprobs: Sequence[TokenLogprob]) -> bytes:
        usage = finished.usage
        answer = InfillAnswer(
            index=0,
            content=text,
            tokens=[],
            id_slot=-1,
            stop=True,
            model=self._model,
            tokens_predicted=usage.generated_tokens,
            tokens_evaluated=usage.prompt_tokens,
            has_new_line=self._has_new_line,
            truncated=finished.dropped_tokens > 0,
            stop_type="limit" if finished.reason == "length" else "word" if finished.stop else "eos",
            stopping_word=finished.stop,
            tokens_cached=usage.cached_tokens,
            timings=InfillTimings.of(usage),
            completion_probabilities=_probabilities(logprobs),
            corral=self._remarks.of(finished),
        )
        return _encode(self._chosen(answer)) if self._fields else _encode(answer)

    def _chosen(self, answer: InfillAnswer) -> dict[str, Any]:
        """The fields that the client has asked for, under the names that it gave them; there may be no such field."""
        whole = msgspec.to_builtins(answer)
        chosen: dict[str, Any] = {}
        for name in self._fields:
            value: Any = whole
            for step in name.split("/"):
                value = value.get(step, msgspec.UNSET) if isinstance(value, dict) else msgspec.UNSET
            if value is not msgspec.UNSET:
                chosen[name] = value
        return chosen


def _probabilities(entries: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [
        {**_one(entry.token, entry.logprob), "top_logprobs": [_one(top.token, top.logprob) for top in entry.top]}
        for entry in entries
    ]


def _one(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode("utf-8", "replace"), "bytes": list(token), "logprob": logprob}

"""What `/v1/chat/completions` and `/v1/completions` write alike: several answers as the choices of one."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod

from corral.api.http.dialects import Dialect
from corral.api.http.errors import ApiError
from corral.api.http.openai.dialect import OPENAI
from corral.api.http.openai.replies import UsageReply
from corral.api.http.openai.several import OfChoice
from corral.api.http.remarks import Remarks
from corral.api.http.sse import COMMENT, DONE, EVENT_STREAM, event
from corral.api.http.thinking_tokens import ThinkingTokens
from corral.core.models.model import StoredModel
from corral.core.requests.outputs import Delta, Finished, Output, Started

__all__ = ("ChoicesForm",)


class ChoicesForm(ABC):
    """The answer of one request, with `choices` of them. `model` is the name that the client sent."""

    dialect: Dialect = OPENAI
    stream_type = EVENT_STREAM
    ping = COMMENT

    def __init__(self, kind: str, model: str, remarks: Remarks, choices: int, *, include_usage: bool) -> None:
        self._id = f"{kind}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._model = model
        self._remarks = remarks
        self._include_usage = include_usage
        self._thinking = [ThinkingTokens() for _ in range(choices)]

    def begin(self, record: StoredModel) -> None:
        return  # the name is the client's

    def headers(self) -> list[tuple[bytes, bytes]]:
        return self._remarks.headers()

    def part(self, output: Output, load_ns: int) -> bytes | None:
        if isinstance(output, Delta):
            return self._heard(0, output)
        if isinstance(output, OfChoice):
            inner = output.output
            if isinstance(inner, Delta):
                return self._heard(output.index, inner)
            if isinstance(inner, Finished):
                return self._finish(output.index, inner)
            if isinstance(inner, Started) and output.index == 0:
                self._remarks.started(inner)
            return None
        if isinstance(output, Started):
            self._remarks.started(output)
        if isinstance(output, Finished):
            last = self._finish(0, output) if len(self._thinking) == 1 else b""
            usage = event(self._usage_chunk(self._usage(output))) if self._include_usage else b""
            return last + usage + DONE
        return None

    def failed(self, problem: ApiError) -> bytes:
        return event(OPENAI.body(problem))

    def whole(self, outputs: list[Output], load_ns: int) -> bytes:
        heard: list[list[Delta]] = [[] for _ in self._thinking]
        ends: dict[int, Finished] = {}
        for output in outputs:
            index, inner = (output.index, output.output) if isinstance(output, OfChoice) else (0, output)
            if isinstance(inner, Started) and index == 0:
                self._remarks.started(inner)
            elif isinstance(inner, Delta):
                self._thinking[index].hear(inner)
                heard[index].append(inner)
            elif isinstance(inner, Finished) and (isinstance(output, OfChoice) or len(self._thinking) == 1):
                ends[index] = inner
        last = outputs[-1]
        assert isinstance(last, Finished)
        choices = [(deltas, ends[index]) for index, deltas in enumerate(heard)]
        return self._whole(choices, self._usage(last))

    def _heard(self, index: int, delta: Delta) -> bytes | None:
        self._thinking[index].hear(delta)
        return self._delta(index, delta)

    def _usage(self, finished: Finished) -> UsageReply:
        return UsageReply.of(finished.usage, sum(thinking.count for thinking in self._thinking))

    @abstractmethod
    def _delta(self, index: int, delta: Delta) -> bytes | None:
        """The events for it, if there is something to tell."""

    @abstractmethod
    def _finish(self, index: int, finished: Finished) -> bytes:
        """The events that end a choice."""

    @abstractmethod
    def _usage_chunk(self, usage: UsageReply) -> bytes:
        """The chunk after the last choice, in JSON."""

    @abstractmethod
    def _whole(self, choices: list[tuple[list[Delta], Finished]], usage: UsageReply) -> bytes:
        """All choices by their indices, in JSON."""

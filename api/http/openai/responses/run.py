"""The answer of a model as a response: heard by its writer, and kept once it has ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self

import msgspec

from corral.api.http.answers import AnswerSource
from corral.api.http.dialects import Dialect
from corral.api.http.errors import ApiError
from corral.api.http.openai.dialect import OPENAI
from corral.api.http.openai.responses.writer import ResponseWriter
from corral.api.http.sse import COMMENT, EVENT_STREAM
from corral.core.models.model import StoredModel
from corral.core.requests.outputs import Finished, Output

__all__ = ("Keep", "ResponseForm", "ResponseRun")

_encode = msgspec.json.Encoder().encode

Keep = Callable[[ResponseWriter], Awaitable[None]]
"""Keeps a response that has ended, if it is to be kept. Never raises an error of ours."""


class ResponseRun:
    """An `AnswerSource` whose outputs `writer` has heard. The response is kept before its end is told."""

    def __init__(self, answer: AnswerSource, writer: ResponseWriter, keep: Keep) -> None:
        self.record = answer.record
        self.load_ns = answer.load_ns
        self._answer = answer
        self._writer = writer
        self._keep = keep

    def read_ahead(self) -> None:
        self._answer.read_ahead()

    def __aiter__(self) -> AsyncIterator[Output]:
        return self._outputs()

    async def __aenter__(self) -> Self:
        await self._answer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._answer.__aexit__(kind, error, traceback)

    async def _outputs(self) -> AsyncIterator[Output]:
        writer = self._writer
        try:
            async for output in self._answer:
                if isinstance(output, Finished):
                    writer.finish(output)
                    await self._keep(writer)
                    writer.conclude()
                else:
                    writer.hear(output)
                yield output
        except Exception as error:
            problem = OPENAI.problem(error)
            tells_id = writer.streams or writer.reply.background  # else the error is the answer
            if tells_id and writer.has_begun and not writer.has_ended:
                writer.fail(problem)
                await self._keep(writer)
                writer.conclude()
            raise problem from error


class ResponseForm:
    """How a response is sent: the events of its writer, or the whole at its end."""

    dialect: Dialect = OPENAI
    stream_type = EVENT_STREAM
    ping = COMMENT

    def __init__(self, writer: ResponseWriter) -> None:
        self._writer = writer

    def begin(self, record: StoredModel) -> None:
        pass

    def headers(self) -> list[tuple[bytes, bytes]]:
        return self._writer.remarks.headers()

    def part(self, output: Output, load_ns: int) -> bytes | None:
        return b"".join(self._writer.take()) or None

    def failed(self, problem: ApiError) -> bytes:
        if not self._writer.has_ended:
            self._writer.fail(problem)
            self._writer.conclude()
        return b"".join(self._writer.take())

    def whole(self, outputs: list[Output], load_ns: int) -> bytes:
        return _encode(self._writer.reply)

"""Sends the answer of a generate or chat request: as lines while it comes, or as one object at its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from litestar.types import Receive, Scope, Send

from corral.api.http.disconnect import CancelOnDisconnect, when_reader_stalls
from corral.api.http.errors import JSON
from corral.api.http.ollama.chunks import AnswerWriter
from corral.api.http.ollama.dialect import OLLAMA
from corral.api.http.request_log import request_log
from corral.core.errors import EngineError
from corral.core.generation.answers import Generation
from corral.core.requests.outputs import Finished, Output

__all__ = ("AnswerResponse",)

_NDJSON = b"application/x-ndjson"


class AnswerResponse:
    """An ASGI response. `open` loads the model and starts the generation; nothing happens before it is called.

    Errors before the first line are raised, and answered by the dialect; later ones become the last line. If the
    client disconnects, everything is cancelled, including loading and the prompt.
    """

    def __init__(self, open: Callable[[], Awaitable[Generation]], writer: AnswerWriter[Any], *, stream: bool) -> None:
        self._open = open
        self._writer = writer
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._stream:
            await self._send_lines(scope, send)
        else:
            await self._send_whole(scope, send)

    async def _send_lines(self, scope: Scope, send: Send) -> None:
        started = False
        last = b""
        try:
            async with CancelOnDisconnect(scope), await self._open() as generation:
                self._writer.begin(generation.record)
                when_reader_stalls(scope, generation.read_ahead)
                async for output in generation:
                    line = self._writer.line(output, generation.load_ns)
                    if line is None:
                        continue
                    if isinstance(output, Finished):
                        _note(scope, output)
                        last = line
                        continue
                    if not started:
                        started = True
                        await _start(send, _NDJSON)
                    await send({"type": "http.response.body", "body": line, "more_body": True})
                if not last:
                    raise EngineError("the answer was cut off", "see the server's log")
        except Exception as error:
            if not started:
                raise
            problem = OLLAMA.problem(error)
            request_log(scope).error = problem.text
            last = OLLAMA.body(problem) + b"\n"
        if not started:
            await _start(send, _NDJSON)
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _send_whole(self, scope: Scope, send: Send) -> None:
        outputs: list[Output] = []
        async with CancelOnDisconnect(scope), await self._open() as generation:
            self._writer.begin(generation.record)
            outputs.extend([output async for output in generation])
            load_ns = generation.load_ns
        if not outputs or not isinstance(outputs[-1], Finished):
            raise EngineError("the answer was cut off", "see the server's log")
        _note(scope, outputs[-1])
        body = self._writer.whole(outputs, load_ns)
        await _start(send, JSON.encode(), (b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def _start(send: Send, content_type: bytes, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type), *headers]})


def _note(scope: Scope, finished: Finished) -> None:
    log = request_log(scope)
    log.prompt_tokens = finished.usage.prompt_tokens
    log.tokens = finished.usage.generated_tokens

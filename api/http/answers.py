"""Sends the answer of a model: as parts while it comes, or as one object at its end, in the form of an API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from types import TracebackType
from typing import Protocol, Self

from litestar.types import Receive, Scope, Send

from corral.api.http.dialects import Dialect
from corral.api.http.disconnect import CancelOnDisconnect, when_reader_stalls
from corral.api.http.errors import JSON, ApiError
from corral.api.http.pings import Pings
from corral.api.http.request_log import request_log
from corral.core.errors import EngineError
from corral.core.models.model import StoredModel
from corral.core.requests.outputs import Finished, Output

__all__ = ("AnswerForm", "AnswerResponse", "AnswerSource", "unbroken")

_LINE_BREAKS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


class AnswerSource(Protocol):
    """An answer in progress, such as a `Generation`: outputs that end with `Finished`."""

    record: StoredModel
    load_ns: int

    def read_ahead(self) -> None: ...
    def __aiter__(self) -> AsyncIterator[Output]: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class AnswerForm(Protocol):
    """How one API writes the answer to one request.

    `stream_type` is the content type of a stream, `ping` what keeps a quiet one alive, if anything does. `headers` are
    those of the response, in lower case; they are read once the first part is written, so they may say what `Started`
    has told.
    """

    dialect: Dialect
    stream_type: bytes
    ping: bytes

    def begin(self, record: StoredModel) -> None:
        """The model that answers. Called before anything is written."""

    def headers(self) -> list[tuple[bytes, bytes]]: ...

    def part(self, output: Output, load_ns: int) -> bytes | None:
        """The part of a stream for `output`, None if there is none. That of `Finished` ends the stream."""

    def failed(self, problem: ApiError) -> bytes:
        """The end of a stream that fails after it has begun."""

    def whole(self, outputs: list[Output], load_ns: int) -> bytes:
        """The whole answer as one object. `outputs` ends with `Finished`."""


class AnswerResponse:
    """An ASGI response. `open` loads the model and starts the generation; nothing happens before it is called.

    Errors before the first part are raised, and answered by the dialect; later ones end the stream. If the client
    disconnects, everything is cancelled, including loading and the prompt.
    """

    def __init__(self, open: Callable[[], Awaitable[AnswerSource]], form: AnswerForm, *, stream: bool) -> None:
        self._open = open
        self._form = form
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._stream:
            await self._send_parts(scope, send)
        else:
            await self._send_whole(scope, send)

    async def _send_parts(self, scope: Scope, send: Send) -> None:
        form = self._form
        started = False
        last = b""

        async def send_part(part: bytes) -> None:
            nonlocal started
            if not started:
                started = True
                await self._start(send, form.stream_type)
            await send({"type": "http.response.body", "body": unbroken(part), "more_body": True})

        async def ping() -> None:
            await send_part(form.ping)

        pings = Pings(ping) if form.ping else None
        try:
            async with CancelOnDisconnect(scope), await self._open() as generation, pings or nullcontext():
                form.begin(generation.record)
                when_reader_stalls(scope, generation.read_ahead)
                async for output in generation:
                    part = form.part(output, generation.load_ns)
                    if part is None:
                        continue
                    if isinstance(output, Finished):
                        _note(scope, output)
                        last = part
                        continue
                    if pings is not None:
                        pings.sent()
                    await send_part(part)
                if not last:
                    raise EngineError("the answer was cut off", "see the server's log")
        except Exception as error:
            if not started:
                raise
            problem = form.dialect.problem(error)
            request_log(scope).failed(error, problem.text)
            last = form.failed(problem)
        if not started:
            await self._start(send, form.stream_type)
        await send({"type": "http.response.body", "body": unbroken(last), "more_body": False})

    async def _send_whole(self, scope: Scope, send: Send) -> None:
        outputs: list[Output] = []
        async with CancelOnDisconnect(scope), await self._open() as generation:
            self._form.begin(generation.record)
            outputs.extend([output async for output in generation])
            load_ns = generation.load_ns
        if not outputs or not isinstance(outputs[-1], Finished):
            raise EngineError("the answer was cut off", "see the server's log")
        _note(scope, outputs[-1])
        body = self._form.whole(outputs, load_ns)
        await self._start(send, JSON.encode(), (b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, send: Send, content_type: bytes, *headers: tuple[bytes, bytes]) -> None:
        fields = [(b"content-type", content_type), *headers, *self._form.headers()]
        await send({"type": "http.response.start", "status": 200, "headers": fields})


def unbroken(part: bytes) -> bytes:
    """The same JSON, with escapes for what is a line break to clients that split lines as Unicode defines them.

    httpx does, so Ollama's own client for Python would cut an object there. Go, and so Ollama, escapes two of them.
    """
    if part.isascii():
        return part
    for character, escape in _LINE_BREAKS:
        part = part.replace(character, escape)
    return part


def _note(scope: Scope, finished: Finished) -> None:
    log = request_log(scope)
    log.prompt_tokens = finished.usage.prompt_tokens
    log.tokens = finished.usage.generated_tokens

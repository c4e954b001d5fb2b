"""The parts of the runners, each on its own: the requests' mailboxes, the child's sending side, the frames' buffer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from queue import SimpleQueue

import pytest
from msgspec.structs import replace

from corral.adapters.engines.fake import SPEC, FakeTokenizer
from corral.adapters.runners.child_link import Uplink
from corral.adapters.runners.dispatch import Dispatch
from corral.adapters.runners.frames import (
    Fatal,
    FrameReader,
    Heartbeat,
    Log,
    Result,
    Step,
    TokenizerCall,
    encode,
    up_decoder,
)
from corral.adapters.runners.thread import ThreadRunner
from corral.adapters.runners.tokenizing import Tokenizing
from corral.core.errors import EngineDied, InvalidRequest, LoadFailed
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.running import ModelInfo
from corral.core.requests.outputs import Delta, Finished, Output, Usage
from corral.core.requests.prompts import Prompt, TextPart
from corral.core.requests.requests import CompletionRequest
from corral.core.specs.engines import LoadRequest

END = Finished(reason="stop", usage=Usage())


def test_an_answer_that_is_complete_stays_so() -> None:
    """A model that dies right after an answer's last output, before the reader takes it, spoils nothing."""

    async def check() -> None:
        aborted: list[int] = []
        info = ModelInfo(tasks=frozenset({"completion"}))
        dispatch = Dispatch(info, add=lambda request_id, request: None, abort=aborted.append)

        async def read() -> list[Output]:
            return [output async for output in dispatch.run(CompletionRequest(prompt=()))]

        reader = asyncio.create_task(read())
        await asyncio.sleep(0)
        dispatch.deliver([(1, Delta(text="a", token_count=1)), (1, END)])
        dispatch.fail(EngineDied("gone").info)
        assert await reader == [Delta(text="a", token_count=1), END]
        assert aborted == []

    asyncio.run(check())


def test_a_flood_of_logs_displaces_nothing_else() -> None:
    """While the parent does not read, old log lines are dropped, but never a tokenizer's answer or an error."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        uplink = Uplink(theirs, lambda: None)
        while not uplink.pending:
            uplink.send(Log(20, "x" * 10_000))
        uplink.send(Result(7, text="tokens"))
        uplink.send_step([(1, END)])
        for number in range(2500):
            uplink.send(Log(20, f"line {number}"))
        uplink.send(Fatal(EngineDied("broken").info))
        reader, decoder = FrameReader(), up_decoder()
        kinds: list[str] = []
        lines = []
        ours.settimeout(5)
        while uplink.pending or "Fatal" not in kinds:
            uplink.flush()
            for data in reader.filled(ours.recv_into(reader.buffer())):
                frame = decoder.decode(data)
                kinds.append(type(frame).__name__)
                if isinstance(frame, Log) and frame.message.startswith("line"):
                    lines.append(frame.message)
        assert kinds.count("Result") == 1
        assert kinds.count("Step") == 1
        assert kinds.index("Step") < kinds.index("Fatal")
        assert lines[-1] == "line 2499"
        assert len(lines) < 1100


def test_one_big_frame_does_not_stay() -> None:
    """The buffer for a big frame is released once the frame has been read."""
    reader = FrameReader(1024)
    data = encode(Step([(1, Delta(text="x" * 100_000, token_count=1))])) + encode(Heartbeat(0.0))
    found = 0
    while data:
        buffer = reader.buffer()
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        data = data[size:]
        found += len(reader.filled(size))
    assert found == 2
    assert len(reader.buffer()) == 1024


def test_text_that_is_no_unicode_is_the_callers_fault() -> None:
    """Half a surrogate pair, as `surrogateescape` makes them, cannot cross to the child: the request is refused."""
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        encode(TokenizerCall(1, "tokenize", prompts=((TextPart(text="a\ud800"),),)))


def test_a_tokenizer_that_panics_answers_the_call() -> None:
    """A BaseException is the answer to its call, and the calls after it are answered too."""

    class Panic(BaseException):
        pass

    class Panicking(FakeTokenizer):
        def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
            if prompts == [(TextPart(text="boom"),)]:
                raise Panic("index out of bounds")
            return super().encode(prompts)

    results: SimpleQueue[Result] = SimpleQueue()
    tokenizing = Tokenizing(Panicking(), results.put)
    try:
        tokenizing.begin(TokenizerCall(1, "tokenize", prompts=((TextPart(text="boom"),),)))
        tokenizing.begin(TokenizerCall(2, "tokenize", prompts=((TextPart(text="a"),),)))
        first, second = results.get(timeout=10), results.get(timeout=10)
    finally:
        tokenizing.close()
    assert first.error is not None
    assert first.error.message == "the engine raised Panic: index out of bounds"
    assert second.error is None


class _Shapeless:
    """An engine that cannot say what it is."""

    def __init__(self) -> None:
        self.closed = False

    @property
    def info(self) -> ModelInfo:
        raise ZeroDivisionError("oops")

    def close(self) -> None:
        self.closed = True


_made = _Shapeless()


def load_shapeless(request: LoadRequest, on_progress: OnLoadProgress) -> _Shapeless:
    return _made


def test_an_engine_that_cannot_describe_itself_is_not_loaded() -> None:
    """The load fails with its reason instead of hanging, and the engine is closed."""

    async def check() -> None:
        spec = replace(SPEC, load=f"{__name__}:load_shapeless")
        with pytest.raises(LoadFailed, match="ZeroDivisionError: oops"):
            async with asyncio.timeout(10):
                await ThreadRunner().load(spec, LoadRequest(model="m", files=()), lambda share: None)

    asyncio.run(check())
    assert _made.closed

"""How finished answers are settled: in which order, in how large pieces, and when not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from corral.adapters.engine_kit.thread_tuning import ThreadTuner
from corral.adapters.engines.llama_cpp.exactness import Exactness
from corral.adapters.engines.llama_cpp.interrupting import INTERRUPTED
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.adapters.engines.llama_cpp.sequences import LlamaSequence
from corral.adapters.engines.llama_cpp.settling import Settling
from corral.adapters.engines.llama_cpp.step_computation import Computation
from corral.adapters.engines.llama_cpp.streams import CacheStream, Streams
from corral.core.errors import EngineError


class Memory:
    """Stands for llama.cpp's context: `held` are the tokens of each stream, `decoded` the size and stream of each call,
    which takes `seconds` per token and a tenth of a second. The next pieces return `codes`, the last first."""

    batch = 64

    def __init__(self) -> None:
        self.cells = dict.fromkeys(range(3), 100)
        self.held: dict[int, list[int]] = {}
        self.decoded: list[tuple[int, int]] = []
        self.seconds = 0.001
        self.fixed_s = 0.0
        self.code = 0
        self.codes: list[int] = []
        self.now = 0.0

    def decode(self, batch: Batch) -> int:
        count = int(batch.native.n_tokens)
        stream = int(batch.sequences[0])
        self.now += count * self.seconds + self.fixed_s
        if self.code == 0:
            held = self.held.setdefault(stream, [])
            assert int(batch.positions[0]) == len(held)
            held.extend(int(token) for token in batch.tokens[:count])
            self.decoded.append((count, stream))
        return self.code

    def decode_interruptibly(self, batch: Batch, tolerated: float | None) -> int:
        return self.codes.pop() if self.codes else self.decode(batch)

    def trim(self, stream: int, length: int) -> bool:
        del self.held.setdefault(stream, [])[length:]
        return True

    def span(self, stream: int) -> tuple[int, int]:
        return (0, len(self.held.get(stream, [])) - 1)

    def cells_of(self, stream: int) -> int:
        return self.cells[stream]

    def set_threads(self, threads: int) -> None: ...


class Engine:
    """Streams of a fake context, and their settling."""

    def __init__(self, smallest_chunk: int = 2) -> None:
        self.memory = Memory()
        context = cast(LlamaContext, self.memory)
        self.streams = Streams(context, 3, trimmable=True)
        computation = Computation(
            context=context,
            streams=self.streams,
            batch=Batch(64),
            tuner=ThreadTuner(1),
            max_prefill_tokens=16,
            largest_chunk=64,
            exactness=Exactness(exact=True, smallest_chunk=smallest_chunk, reason="assumed"),
        )
        self.settling = Settling(self.streams, computation, lambda: self.memory.now)

    def ended(self, prompt: int, answer: int, *, pending: int = 7, shifted: bool = False) -> CacheStream:
        """An answer of so many tokens, and one that was never computed, has ended in a stream of its own."""
        stream = self.streams.take(None, 0)
        self.streams.cut(stream, 0)
        tokens = list(range(100, 100 + prompt + answer))
        self.memory.held[stream.index] = list(tokens)
        stream.tokens = tokens
        stream.reusable = prompt
        ended: Any = SimpleNamespace(owned=stream, pending=pending, shifted=shifted)
        self.settling.ended(cast(LlamaSequence, ended))
        self.streams.release(stream)
        return stream

    def settle(self) -> list[float | None]:
        """Every piece until there is nothing to do."""
        done: list[float | None] = [self.settling.piece()]
        while done[-1] is not None:
            done.append(self.settling.piece())
        return done


@pytest.fixture
def engine() -> Engine:
    return Engine()


def test_the_answer_and_its_end_become_a_prefix(engine: Engine) -> None:
    """All of the stream is reusable afterwards, and the memory holds what it says."""
    stream = engine.ended(10, 20)
    assert stream.reusable == len(stream.tokens) == 10
    engine.settle()
    assert stream.tokens == engine.memory.held[stream.index] == [*range(100, 130), 7]
    assert stream.reusable == 31


@pytest.mark.parametrize("smallest", [2, 8])
@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.2])
def test_no_chunk_is_too_short(smallest: int, seconds: float) -> None:
    """Whatever the length of the answer and the speed, since few rows would come out differently."""
    for answer in range(1, 50):
        engine = Engine(smallest)
        engine.memory.seconds = seconds
        stream = engine.ended(10, answer)
        engine.settle()
        assert all(count >= smallest for count, _ in engine.memory.decoded)
        assert stream.reusable == (10 if answer + 1 < smallest else 10 + answer + 1)


def test_pieces_take_fifty_milliseconds(engine: Engine) -> None:
    """The first is a guess; the others are as long as the measured speed allows."""
    engine.memory.seconds = 0.004
    engine.memory.fixed_s = 0.01
    engine.ended(5, 80)
    engine.settle()
    sizes = [count for count, _ in engine.memory.decoded]
    assert len(sizes) > 5
    assert all(count * 0.004 + 0.01 <= 0.055 for count in sizes)


def test_a_speed_that_returns_is_used_again(engine: Engine) -> None:
    """One slow piece does not make all others small."""
    engine.memory.seconds = 1.0
    engine.ended(5, 3)
    engine.settle()
    engine.memory.seconds = 0.001
    engine.ended(5, 80)
    engine.settle()
    assert max(count for count, _ in engine.memory.decoded) > 20


def test_the_latest_answer_settles_first(engine: Engine) -> None:
    """Its user is the next to ask, most likely."""
    streams = [engine.ended(5, 4), engine.ended(5, 4), engine.ended(5, 4)]
    engine.settle()
    order = [stream for _, stream in engine.memory.decoded]
    assert order == sorted(order, key=[stream.index for stream in reversed(streams)].index)


def test_what_another_prompt_takes_is_not_settled(engine: Engine) -> None:
    """A stream that is taken or cut has other contents than those that the answer would follow."""
    taken, cut = engine.ended(5, 4), engine.ended(5, 4)
    assert engine.streams.take(taken, 5) is taken
    engine.streams.cut(cut, 3)
    assert engine.settle() == [None]
    assert engine.memory.decoded == []


def test_what_need_not_be_settled(engine: Engine) -> None:
    """Answers of shifted contexts, prompts that were cancelled, and a single token."""
    engine.ended(5, 4, shifted=True)
    engine.ended(5, 0, pending=-1)
    engine.ended(5, 0)
    assert engine.settle() == [None]


def test_a_piece_that_was_interrupted_is_computed_again(engine: Engine) -> None:
    """The answer settles as a whole, and pieces grow as usual afterwards."""
    stream = engine.ended(10, 40)
    engine.memory.codes = [INTERRUPTED, INTERRUPTED]
    engine.settle()
    assert stream.tokens == engine.memory.held[stream.index] == [*range(100, 150), 7]
    assert stream.reusable == 51
    assert engine.memory.decoded[-1][0] > 2


def test_a_full_stream_is_not_exceeded(engine: Engine) -> None:
    """The last cell stays free for an idle row."""
    stream = engine.ended(50, 50)
    engine.settle()
    assert len(stream.tokens) == 99


def test_a_failure_gives_the_answer_up(engine: Engine) -> None:
    """The prompt stays reusable, and nothing is tried again."""
    stream = engine.ended(5, 20)
    engine.memory.code = 1
    with pytest.raises(EngineError):
        engine.settling.piece()
    assert (stream.tokens, stream.reusable) == (list(range(100, 105)), 5)
    assert engine.settling.piece() is None


def test_an_answer_is_settled_that_has_more_cells_than_others() -> None:
    """While streams are moved, what counts is the room of its own stream; the last cell stays free."""
    engine = Engine()
    engine.memory.cells[0] = 200
    stream = engine.ended(120, 100)
    engine.settle()
    assert (stream.index, len(stream.tokens)) == (0, 199)

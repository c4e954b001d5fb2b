"""How many streams and cells a model has: as few as are needed, and more or fewer when that changes.

llama.cpp cannot change the size of a context. So another one is created in a thread while steps go on, and the streams
move there one by one, between steps, each with its state. Until all have moved, a step computes in both. This costs a
running answer the copy of one state per step, and never the copies of all. The thread has a low priority; once an
answer is short of cells, each step leaves it some time.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

from corral.adapters.engines.llama_cpp.context_creation import ContextCreation, close_soon
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_context import ContextSize, NativeContext
from corral.adapters.engines.llama_cpp.recent_needs import RecentNeeds
from corral.adapters.engines.llama_cpp.sequences import CELLS_AHEAD, LlamaSequence
from corral.adapters.engines.llama_cpp.streams import CacheStream, Streams
from corral.core.errors import OutOfMemory
from corral.core.stepping.fair_queue import FairQueue

__all__ = ("KEPT_S", "ContextGrowth", "Moves")

_log = logging.getLogger(__name__)

KEPT_S = 60.0
"""What has not been needed for this long is given up."""
_RETRY_S = 1.0
_WAIT_S = 0.05
_WORTH_MOVING = 32
"""Idle streams with fewer tokens are emptied rather than moved."""


class Moves(NamedTuple):
    """What was moved in a step: states were copied for so many seconds, and `lost` are the sequences that have no
    cells any more, since theirs could not be moved.
    """

    took_s: float = 0.0
    lost: Sequence[LlamaSequence] = ()


class ContextGrowth:
    """Owned by the engine's thread. The levels are the numbers of streams and cells that there may be, the smallest
    first. The context has the fewest streams, of `first_cells` each: more streams may have fewer cells each.

    `allowed` says whether memory is there for a context of this size besides the one there is; it is asked in another
    thread. `dropped` is called before the content of an idle stream is lost.
    """

    def __init__(
        self,
        *,
        context: LlamaContext,
        streams: Streams,
        stream_levels: Sequence[int],
        cell_levels: Sequence[int],
        first_cells: int,
        allowed: Callable[[ContextSize], bool],
        dropped: Callable[[CacheStream], object] = lambda stream: None,
        kept_s: float = KEPT_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._streams = streams
        self._stream_levels = stream_levels
        self._stream_needs = RecentNeeds(stream_levels, kept_s, clock_s)
        self._cell_needs = RecentNeeds(cell_levels, kept_s, clock_s)
        self._allowed = allowed
        self._dropped = dropped
        self._clock_s = clock_s
        self._first = self._size = ContextSize(stream_levels[0], first_cells)
        self._creating: ContextCreation | None = None
        self._target: ContextSize | None = None
        self._to_move: list[CacheStream] = []
        self._refused_cells = sys.maxsize
        self._retry_at_s = 0.0
        self._insists = False
        self._closing: list[threading.Thread] = []

    @property
    def size(self) -> ContextSize:
        """What there is now."""
        return self._size

    @property
    def largest(self) -> ContextSize:
        """What there may be."""
        return ContextSize(self._stream_needs.most, self._cell_needs.most)

    # ── While requests run ────────────────────────────────────────────────────────────────────────────────────────

    def step(self, running: Sequence[LlamaSequence], waiting: FairQueue[LlamaSequence]) -> Moves:
        """Call before each step. They may get less than they need, or get it later."""
        first = islice(waiting, self._stream_needs.most)
        cells = max((sequence.cells_soon for sequence in (*running, *first)), default=1)
        needs = ContextSize(len(running) + len(waiting), cells)
        self._stream_needs.note(needs.streams)
        self._cell_needs.note(needs.cells)
        if self._target is None and self._creating is not None:
            if not self._creating.done:
                self._creating.wait(self._hurry_s(running))
            if self._creating.done:
                self._begin_moving(needs.cells)
        elif self._target is None and self._clock_s() >= self._retry_at_s:
            self._grow(needs)
        if self._target is None:
            return Moves()
        began_s = self._clock_s()
        lost = self._move_next(running)
        return Moves(self._clock_s() - began_s, [one for one in running if one.stream in lost])

    def wait(self, cells: int) -> OutOfMemory | None:
        """Call if no request can go on before a stream has so many cells. Waits a little, and returns None, or why
        that does not help.
        """
        if self._creating is not None:
            self._creating.wait(_WAIT_S)
        elif self._target is None and self._cell_needs.level(cells) >= self._refused_cells:
            self._insists = not self._insists
            if self._insists:  # memory may be there by now
                self._retry_at_s = self._clock_s()
                return None
            return OutOfMemory(
                f"there is no memory for a context of more than {self._size.cells} tokens",
                "free memory, or shorten the prompt",
            )
        return None

    def _hurry_s(self, running: Sequence[LlamaSequence]) -> float:
        """How long to leave the processors to the thread that creates a context: longer the fewer cells an answer has
        left. Beside steps it takes up to ten times as long, and such an answer would wait for all of it at once.
        """
        left = [self._size.cells - one.cells_next for one in running if one.cells_soon > self._size.cells]
        return _WAIT_S * (1 - max(0, min(left, default=CELLS_AHEAD)) / CELLS_AHEAD)

    def _grow(self, needs: ContextSize) -> None:
        now = self._size
        streams = max(now.streams, self._stream_needs.level(needs.streams))
        cells = self._cell_needs.level(needs.cells)
        cells = max(cells, now.cells if streams == now.streams else self._cell_needs.lately())
        wanted = ContextSize(streams, cells)
        if wanted == now:
            return
        fewest = now.streams  # unless there are fewer that have more cells
        if wanted.cells > now.cells:
            fewest = max((stream.index + 1 for stream in self._streams if stream.busy), default=1)
        counts = [count for count in reversed(self._stream_levels) if fewest <= count <= wanted.streams]
        self._create([size for size in (ContextSize(count, wanted.cells) for count in counts) if size != now])

    def _create(self, targets: Sequence[ContextSize]) -> None:
        self._creating = ContextCreation(self._context, targets, self._allowed)

    def _begin_moving(self, cells: int = 1) -> None:
        """`cells` are what requests need now."""
        assert self._creating is not None
        native, target, asked = self._creating.native, self._creating.size, self._creating.targets
        self._creating = None
        if native is None or target is None:
            self._refused_cells = asked[-1].cells if asked[-1].cells > self._size.cells else sys.maxsize
            self._retry_at_s = self._clock_s() + _RETRY_S
            return
        too_few = target.cells < min(cells, self._size.cells)
        if too_few or any(stream.busy for stream in self._streams if stream.index >= target.streams):
            self._free(native)  # requests came meanwhile
            return
        self._refused_cells, self._insists = sys.maxsize, False
        for stream in self._streams:
            if stream.index >= target.streams:
                self._lose(stream)
        self._context.begin_moving(native)
        moving = [stream for stream in self._streams if stream.index < target.streams]
        self._streams.resize(target.streams)
        # Running answers first: while they are in both contexts, a step computes twice.
        self._to_move = sorted(moving, key=lambda stream: (not stream.busy, -stream.last_used), reverse=True)
        self._target = target

    def _move_next(self, running: Sequence[LlamaSequence] = ()) -> list[CacheStream]:
        """Move a stream that holds something, and all empty ones up to the next. An answer that cannot go on where it
        is comes first. Return the busy streams that have lost their content.
        """
        stuck = [one.owned for one in running if not one.has_room(self._size.cells)]
        self._to_move.sort(key=stuck.__contains__)
        lost = []
        while self._to_move:
            stream = self._to_move.pop()
            held = bool(stream.tokens)
            took = self._move(stream)
            if held and not stream.tokens and stream.busy:
                lost.append(stream)
            if took:
                break
        if not self._to_move:
            self._end_moving()
        return lost

    def _move(self, stream: CacheStream) -> bool:
        """Move a stream, empty if that is impossible; return whether this took time."""
        assert self._target is not None
        room = self._target.cells - len(stream.tokens) - len(stream.unsettled)
        worth = stream.busy or (stream.reusable >= _WORTH_MOVING and room > 0)
        content = worth and bool(stream.tokens)
        if not content and stream.tokens:
            self._lose(stream)
        if not self._context.move(stream.index, content=content):
            _log.warning("a stream of %d tokens could not be moved", len(stream.tokens))
        if content and self._context.span(stream.index)[1] + 1 != stream.next_position:
            self._streams.cut(stream, 0)
        return content

    def _lose(self, stream: CacheStream) -> None:
        self._dropped(stream)
        self._streams.cut(stream, 0)

    def _end_moving(self) -> None:
        assert self._target is not None
        self._free(self._context.end_moving())
        self._size, self._target = self._target, None

    # ── While there are none ──────────────────────────────────────────────────────────────────────────────────────

    def idle(self) -> float | None:
        """Give up what has not been needed for a while. A `BackgroundWork`."""
        if self._target is not None:
            self._move_next()
            return 0.0
        if self._creating is not None:
            if self._creating.done:
                self._begin_moving()
            return _WAIT_S if self._target is None else 0.0
        due = [
            wait_s
            for wait_s in (
                self._stream_needs.spare_in_s(self._size.streams),
                self._cell_needs.spare_in_s(self._size.cells),
            )
            if wait_s is not None
        ]
        if not due:
            return None
        if min(due) > 0 or self._clock_s() < self._retry_at_s:
            return max(min(due), self._retry_at_s - self._clock_s())
        return _WAIT_S if self._shrinks() else min((wait_s for wait_s in due if wait_s > 0), default=None)

    def _shrinks(self) -> bool:
        count = min(self._size.streams, self._stream_needs.lately())
        self._keep_latest(count)
        kept = max(len(stream.tokens) for stream in self._streams if stream.index < count)
        cells = max(self._cell_needs.lately(), self._cell_needs.level(kept))
        if count == self._first.streams:
            cells = max(cells, self._first.cells)
        elif count == self._size.streams:
            cells = min(cells, self._size.cells)
        size = ContextSize(count, cells)
        if size == self._size:
            return False
        self._create([size])
        return True

    def _keep_latest(self, count: int) -> None:
        """Copy what was used last into the first `count` streams, which are those that stay."""
        latest = sorted(self._streams, key=lambda stream: stream.last_used if stream.tokens else -1)[-count:]
        places = [stream for stream in self._streams if stream.index < count and stream not in latest]
        for stream in latest:
            if stream.index >= count and stream.reusable >= _WORTH_MOVING:
                place = places.pop()
                self._lose(place)
                place.last_used = stream.last_used
                self._streams.load_prefix(place, stream, len(stream.tokens))
                self._streams.cut(stream, 0)
        self._streams.drop_snapshot()

    def _free(self, native: NativeContext) -> None:
        self._closing = [thread for thread in self._closing if thread.is_alive()]
        self._closing.append(close_soon(native))

    def close(self) -> None:
        """Call before the context is closed."""
        if self._creating is not None:
            self._creating.wait(None)
            if self._creating.native is not None:
                self._creating.native.close()
            self._creating = None
        for thread in self._closing:
            thread.join()

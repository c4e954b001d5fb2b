"""The KV streams: which are in use, which prefix each one holds, and which to use for a new prompt."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from corral.adapters.engines.llama_cpp.native import LlamaContext

__all__ = ("CacheStream", "Jump", "Streams", "common_prefix")


def common_prefix(left: Sequence[int], right: Sequence[int], limit: int) -> int:
    """The length of the common prefix of two lists, at most `limit`. Compares slices, which is quick for long lists."""
    low, high = 0, min(len(left), len(right), limit)
    if left[:high] == right[:high]:
        return high
    step = 64
    while low + step <= high and left[low : low + step] == right[low : low + step]:
        low += step
        step *= 2
    high = min(high, low + step)
    while high - low > 1:  # left[low:high] differ somewhere
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True, slots=True)
class Jump:
    """An image whose `count` cells, from `start` on, take `span` positions, in models with M-RoPE."""

    start: int
    count: int
    span: int


class CacheStream:
    """One KV stream. `tokens` are the keys of what its memory holds (see `PromptCells`); the first `reusable` of them
    may serve as another's prefix, but not fewer than `least`. `unsettled` tokens would follow them: see `Settling`.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.tokens: list[int] = []
        self.jumps: list[Jump] = []
        self.reusable = 0
        self.least = 0
        self.unsettled: list[int] = []
        self.busy = False
        self.last_used = 0

    def position(self, count: int) -> int:
        """The position of the token after the first `count`. llama.cpp's memory is addressed by positions."""
        position = count
        for jump in self.jumps:
            if count <= jump.start:
                break
            # Within such an image, all cells count as one position.
            position += jump.span - jump.count if count >= jump.start + jump.count else 1 - (count - jump.start)
        return position

    @property
    def next_position(self) -> int:
        """The position of the next token."""
        return self.position(len(self.tokens))


class Streams:
    """All streams of a context. Idle streams are a cache: the least recently used one is overwritten first.

    `trimmable` says whether memory can be truncated anywhere; if not (recurrent models), a prefix is reused only as a
    whole. `window` is how far back the model's layers with a sliding window see, 0 without such layers: a saved state
    has of these layers only the cells within the window before its end, so that what was restored cannot be cut again.
    """

    def __init__(self, context: LlamaContext, count: int, *, trimmable: bool, window: int = 0) -> None:
        self._context = context
        self._all = [CacheStream(index) for index in range(count)]
        self.trimmable = trimmable
        self._window = window
        self._clock = 0
        self._snapshot: tuple[CacheStream, int, Any] | None = None

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, index: int) -> CacheStream:
        return self._all[index]

    def __iter__(self) -> Iterator[CacheStream]:
        return iter(self._all)

    @property
    def divisible(self) -> bool:
        """Whether a restored state can be cut anywhere."""
        return self.trimmable and not self._window

    def room(self, stream: CacheStream) -> int:
        """How many more tokens the stream can have, as things are."""
        return self._context.cells_of(stream.index) - len(stream.tokens)

    @property
    def full(self) -> list[int]:
        """The streams that have no room for another token. None of them is idle if memory can be truncated."""
        return [stream.index for stream in self._all if self.room(stream) <= 0]

    def resize(self, count: int) -> None:
        """Have this many streams, as the context has now. Those that go are empty and idle."""
        self.drop_snapshot()
        del self._all[count:]
        self._all += [CacheStream(index) for index in range(len(self._all), count)]

    @property
    def any_idle(self) -> bool:
        return any(not stream.busy for stream in self._all)

    def best_prefix(
        self, prompt: Sequence[int], limit: int, *, besides: CacheStream | None = None
    ) -> tuple[CacheStream | None, int]:
        """The stream whose memory shares the longest prefix with the prompt, and its length; one is left out."""
        best, length = None, 0
        for stream in self._all:
            if stream is besides:
                continue
            shared = self._usable(stream, common_prefix(stream.tokens, prompt, min(stream.reusable, limit)))
            # Of equals, prefer an idle one: it can be continued in place.
            if shared > length or (shared == length and shared and best is not None and best.busy and not stream.busy):
                best, length = stream, shared
        return best, length

    def _usable(self, stream: CacheStream, shared: int) -> int:
        if shared == 0 or shared == len(stream.tokens):
            return shared
        if not self.trimmable or shared < stream.least:
            return 0
        return shared

    def take(self, source: CacheStream | None, shared: int) -> CacheStream:
        """Take an idle stream: the source if little would be lost, otherwise the least recently used one.

        Of unused streams, a neighbour of a busy one is preferred, because llama.cpp computes only streams with
        consecutive numbers together.
        """
        self._clock += 1
        if source is not None and not source.busy and shared * 2 >= source.reusable:
            chosen = source
        else:
            idle = [stream for stream in self._all if not stream.busy]
            spare = [stream for stream in idle if stream is not source] or idle
            empty = [stream for stream in spare if not stream.tokens]
            chosen = max(empty, key=self._busy_neighbours) if empty else min(spare, key=lambda stream: stream.last_used)
        chosen.busy = True
        chosen.unsettled = []
        chosen.last_used = self._clock
        return chosen

    def _busy_neighbours(self, stream: CacheStream) -> tuple[int, int]:
        near = self._all[max(0, stream.index - 1)].busy + self._all[min(len(self._all) - 1, stream.index + 1)].busy
        return near, -stream.index

    def load_prefix(self, stream: CacheStream, source: CacheStream | None, shared: int) -> int:
        """Make the stream hold the first `shared` tokens of the source; return how many it holds now."""
        if self._snapshot is not None and self._snapshot[0] is stream:
            self.drop_snapshot()
        if source is None or shared == 0:
            return self.cut(stream, 0)
        if source is not stream:
            tokens = source.tokens
            if shared < self._least(len(tokens)):
                return self.cut(stream, 0)
            if not self._context.restore(stream.index, self._state_of(source)):
                return self.cut(stream, 0)
            stream.tokens = list(tokens)
            stream.jumps = list(source.jumps)
            stream.reusable = min(source.reusable, len(tokens))
            self.has_restored(stream)
        return self.cut(stream, shared)

    def has_restored(self, stream: CacheStream) -> None:
        """Call when the stream has got its tokens with a saved state."""
        stream.least = self._least(len(stream.tokens))

    def _least(self, count: int) -> int:
        """To how many tokens a restored state of so many can be cut: the last one sees what its predecessor does."""
        return count - 1 if 0 < self._window < count else 0

    def _state_of(self, source: CacheStream) -> Any:
        # Whole states are copied, since llama.cpp cannot copy parts between streams. Requests that begin
        # alike often arrive together, so the last state is kept until `drop_snapshot`.
        if self._snapshot is None or self._snapshot[0] is not source or self._snapshot[1] != len(source.tokens):
            self._snapshot = (source, len(source.tokens), self._context.save(source.index))
        return self._snapshot[2]

    def drop_snapshot(self) -> None:
        """Call before the memory of any stream changes."""
        self._snapshot = None

    def cut(self, stream: CacheStream, length: int) -> int:
        """Truncate a stream's memory to `length` tokens, or to nothing if that is impossible; return its length. An
        image with positions of its own is kept or dropped as a whole.
        """
        length = min([length, *(jump.start for jump in stream.jumps if length < jump.start + jump.count)])
        if length != len(stream.tokens) or length == 0:
            if length < stream.least or length == 0 or not self._context.trim(stream.index, stream.position(length)):
                length = 0
                self._context.trim(stream.index, 0)
            del stream.tokens[length:]
            stream.unsettled = []
            stream.least = stream.least if length else 0
            stream.jumps = [jump for jump in stream.jumps if jump.start < length]
        stream.reusable = min(stream.reusable, length)
        return length

    def release(self, stream: CacheStream) -> None:
        """Return a stream; its content stays as cache, except what a row that is computed beside others may need."""
        if self.trimmable and self.room(stream) <= 0:
            self.cut(stream, len(stream.tokens) - 1)
        self._clock += 1
        stream.busy = False
        stream.last_used = self._clock

    def resync(self) -> None:
        """After a failed decode: truncate what it left behind, and forget tokens that the memory no longer has."""
        for stream in self._all:
            end = self._context.span(stream.index)[1] + 1
            if end > stream.next_position:
                self._context.trim(stream.index, stream.next_position)
            elif end < stream.next_position:
                self.cut(stream, bisect_left(range(len(stream.tokens)), end, key=stream.position))

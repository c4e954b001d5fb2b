"""Where the prefix of a new prompt comes from, a stream or what is kept outside of them, and what is kept of a stream
before it is overwritten.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import msgspec

from corral.adapters.engine_kit.prefixes.kept_prefix import KeptPrefix
from corral.adapters.engine_kit.prefixes.prefix_cache import PrefixCache
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.streams import CacheStream, Jump, Streams
from corral.core.errors import EngineError
from corral.core.ports.running import PrefixTier

__all__ = ("PrefixSource", "PrefixTiers")

PrefixSource = CacheStream | KeptPrefix

_WORTH_RESTORING = 16
_WORTH_KEEPING = 32
_WORTH_WRITING = 64
"""Fewer tokens are computed again rather than restored, kept, or written to disk."""
_QUIET_S = 10.0
"""Nothing is written before there has been no request for so long: the next turn of a chat replaces its last."""
_LOOK_S = 5.0
_WRITING_S = 0.2
_SHARE_OF_GRACE = 0.6
"""Of the time that closing may take; the rest is for what else must end."""

_Note = list[tuple[int, int, int]]


class PrefixTiers:
    """The streams, and the prefixes kept besides."""

    def __init__(
        self, streams: Streams, context: LlamaContext, cache: PrefixCache, *, close_grace_s: float = 0.0
    ) -> None:
        self._streams = streams
        self._context = context
        self._cache = cache
        self._copying_s = 0.0
        self._stream_hits = 0
        self._closed = False
        self._grace_s = close_grace_s * _SHARE_OF_GRACE
        self._active_s = time.monotonic()

    def best(self, prompt: Sequence[int], limit: int) -> tuple[PrefixSource | None, int]:
        """What has the longest prefix in common with the prompt, and its length; a stream unless others have more."""
        stream, shared = self._streams.best_prefix(prompt, limit)
        kept, length = self._cache.find(prompt, limit)
        if kept is not None and length >= shared + _WORTH_RESTORING:
            return kept, length
        return stream, shared

    def take(self, source: PrefixSource | None, shared: int) -> CacheStream:
        """As `Streams.take`. What the stream is about to lose is kept."""
        if isinstance(source, KeptPrefix):
            self._cache.used(source)
        own = source if isinstance(source, CacheStream) else None
        stream = self._streams.take(own, shared)
        self.keep(stream, shared if stream is source else 0)
        return stream

    def load(self, stream: CacheStream, source: PrefixSource | None, shared: int) -> int:
        """Make the stream hold the first `shared` tokens of the source; return how many it holds now."""
        began = time.perf_counter()
        try:
            if isinstance(source, KeptPrefix):
                return self._restore(stream, source, shared)
            self._stream_hits += shared >= _WORTH_RESTORING
            return self._streams.load_prefix(stream, source, shared)
        finally:
            self._copying_s += time.perf_counter() - began

    def is_reading(self, source: PrefixSource | None) -> bool:
        """Whether the source is on its way from the disk to memory. It is `best` that begins it."""
        return isinstance(source, KeptPrefix) and self._cache.is_reading(source)

    def wait(self, limit_s: float) -> None:
        """Wait until something has been read from the disk, but not longer than this."""
        self._cache.wait(limit_s)

    def keep(self, stream: CacheStream, remaining: int = 0) -> None:
        """Keep what of the stream another prompt could reuse; call before all but its first `remaining` tokens are
        lost. The rest is dropped at once. Nothing is kept that is there already, or that is computed as quickly.
        """
        if self._cache.memory_bytes and stream.reusable - remaining >= _WORTH_KEEPING:
            tokens = stream.tokens[: stream.reusable]
            entry, kept = self._cache.find(tokens, len(tokens))
            if entry is not None and entry.state is None:
                kept = 0
            _, elsewhere = self._streams.best_prefix(tokens, len(tokens), besides=stream)
            if len(tokens) - max(elsewhere, kept) >= _WORTH_KEEPING:
                self._save(stream)
            elif entry is not None and kept > elsewhere:
                self._cache.used(entry)

    def _save(self, stream: CacheStream, *, passing: bool = False) -> bool:
        """Copy what is reusable of a stream, and drop the rest. False if that is impossible."""
        began = time.perf_counter()
        self._streams.drop_snapshot()
        self._streams.cut(stream, stream.reusable)
        try:
            if not stream.tokens or not (passing or self._cache.fits(self._context.state_bytes(stream.index))):
                return False
            state = self._context.save(stream.index)
        except (EngineError, MemoryError):
            return False  # it is computed again when it is wanted
        finally:
            self._copying_s += time.perf_counter() - began
        note: _Note = [(jump.start, jump.count, jump.span) for jump in stream.jumps]
        self._cache.put(stream.tokens, msgspec.msgpack.encode(note), state, passing=passing)
        return True

    # ── Background ────────────────────────────────────────────────────────────────────────────────────────────────

    def poll(self) -> None:
        """Take in what was read from disk or written to it; forget everything if the prefixes have been cleared."""
        if not self._cache.poll():
            for stream in self._streams:
                stream.reusable = 0
                if not stream.busy:
                    self._streams.cut(stream, 0)

    def idle(self) -> float | None:
        """A `BackgroundWork`: write what is not on disk yet, once it has been quiet for a while."""
        if not self._cache.has_files:
            return None
        self.poll()
        quiet_s = time.monotonic() - self._active_s
        if quiet_s < _QUIET_S:
            return min(_LOOK_S, _QUIET_S - quiet_s)
        if self._cache.writing or self._cache.write_next():
            return _WRITING_S
        stream = next(self._unwritten(), None)
        if stream is not None and self._save(stream, passing=True) and self._cache.write_next():
            return _WRITING_S
        return _LOOK_S

    def _unwritten(self) -> Iterator[CacheStream]:
        """Idle streams that hold what is neither kept nor on disk, the last used first."""
        for stream in sorted(self._streams, key=lambda stream: -stream.last_used):
            tokens = stream.tokens[: stream.reusable]
            if len(tokens) >= _WORTH_WRITING and not stream.busy:
                _, kept = self._cache.find(tokens, len(tokens))
                if len(tokens) - kept >= _WORTH_KEEPING:
                    yield stream

    def close(self) -> None:
        """Write what is not on disk yet, the last used first, as far as there is time. The context is still open."""
        if self._cache.has_files and not self._closed:
            self._closed = True
            ends_s = time.monotonic() + self._grace_s
            self.poll()
            for stream in list(self._unwritten()):
                if time.monotonic() < ends_s - self._grace_s / 2:
                    self._save(stream, passing=True)
            self._cache.close(max(0.0, ends_s - time.monotonic()))

    def tiers(self) -> tuple[PrefixTier, ...]:
        """What is kept where, for `ModelInfo`."""
        held = [stream.reusable for stream in self._streams if stream.reusable]
        size_bytes = sum(held) * self._context.model.kv_values_per_token * 2
        own = PrefixTier(name="streams", entries=len(held), size_bytes=size_bytes, hits=self._stream_hits)
        return own, *self._cache.tiers()

    def copied_s(self) -> float:
        """How long states were copied since the last call."""
        took, self._copying_s = self._copying_s, 0.0
        return took

    def admitted(self) -> None:
        """Call when requests have been given their prefixes, and before the memory of any stream changes."""
        self._streams.drop_snapshot()
        self._cache.shrink()
        self._active_s = time.monotonic()

    def _restore(self, stream: CacheStream, kept: KeptPrefix, shared: int) -> int:
        if kept.state is None or shared == 0 or not self._context.restore(stream.index, kept.state):
            return self._streams.cut(stream, 0)
        self._cache.count_hit(kept)
        note = msgspec.msgpack.decode(kept.note, type=_Note)
        stream.tokens = self._cache.keys(kept)
        stream.jumps = [Jump(*jump) for jump in note]
        stream.reusable = kept.count
        self._streams.has_restored(stream)
        self._cache.used(kept)
        return self._streams.cut(stream, shared)

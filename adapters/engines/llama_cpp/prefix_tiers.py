"""Where the prefix of a new prompt comes from, a stream or what is kept outside of them, and what is kept of a stream
before it is overwritten.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from corral.adapters.engine_kit.prefixes.kept_prefix import KeptPrefix
from corral.adapters.engine_kit.prefixes.prefix_cache import PrefixCache
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.streams import CacheStream, Jump, Streams
from corral.core.errors import EngineError

__all__ = ("PrefixSource", "PrefixTiers")

PrefixSource = CacheStream | KeptPrefix

_WORTH_RESTORING = 16
_WORTH_KEEPING = 32
"""Fewer tokens are computed again rather than restored or kept."""

_Note = list[tuple[int, int, int]]


class PrefixTiers:
    """The streams, and the prefixes kept besides."""

    def __init__(self, streams: Streams, context: LlamaContext, cache: PrefixCache) -> None:
        self._streams = streams
        self._context = context
        self._cache = cache
        self._copying_s = 0.0

    def best(self, prompt: Sequence[int], limit: int) -> tuple[PrefixSource | None, int]:
        """What has the longest prefix in common with the prompt, and its length; a stream unless others have more."""
        stream, shared = self._streams.best_prefix(prompt, limit)
        kept, length = self._cache.find(prompt, limit)
        if kept is not None and length >= shared + _WORTH_RESTORING:
            return kept, length
        return stream, shared

    def take(self, source: PrefixSource | None, shared: int) -> CacheStream:
        """As `Streams.take`. What the stream is about to lose is kept."""
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
            return self._streams.load_prefix(stream, source, shared)
        finally:
            self._copying_s += time.perf_counter() - began

    def keep(self, stream: CacheStream, remaining: int = 0) -> None:
        """Keep what of the stream another prompt could reuse; call before all but its first `remaining` tokens are
        lost. The rest is dropped at once. Nothing is kept that is there already, or that is computed as quickly.
        """
        count = stream.reusable
        if count - remaining < _WORTH_KEEPING or not self._cache.memory_bytes:
            return
        tokens = stream.tokens[:count]
        _, elsewhere = self._streams.best_prefix(tokens, count, besides=stream)
        entry, kept = self._cache.find(tokens, count)
        if count - max(elsewhere, kept) < _WORTH_KEEPING:
            if entry is not None and kept > elsewhere:
                self._cache.used(entry)
            return
        began = time.perf_counter()
        count = self._streams.cut(stream, count)
        if self._cache.fits(self._context.state_bytes(stream.index)):
            note: _Note = [(jump.start, jump.count, jump.span) for jump in stream.jumps]
            try:
                state = self._context.save(stream.index)
            except (EngineError, MemoryError):
                return  # it is computed again when it is wanted
            self._cache.put(stream.tokens, msgspec.msgpack.encode(note), state)
        self._copying_s += time.perf_counter() - began

    def copied_s(self) -> float:
        """How long states were copied since the last call."""
        took, self._copying_s = self._copying_s, 0.0
        return took

    def admitted(self) -> None:
        """Call when requests have been given their prefixes, and before the memory of any stream changes."""
        self._streams.drop_snapshot()
        self._cache.shrink()

    def _restore(self, stream: CacheStream, kept: KeptPrefix, shared: int) -> int:
        if kept.state is None or not self._context.restore(stream.index, kept.state):
            return self._streams.cut(stream, 0)
        note = msgspec.msgpack.decode(kept.note, type=_Note)
        stream.tokens = self._cache.keys(kept)
        stream.jumps = [Jump(*jump) for jump in note]
        stream.reusable = kept.count
        self._cache.used(kept)
        return self._streams.cut(stream, shared)

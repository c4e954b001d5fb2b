"""A cache of llama.cpp's DRY samplers: finding every token that ends with a sequence breaker takes seconds."""

from __future__ import annotations

import ctypes
import threading
import weakref
from typing import Any

import llama_cpp as C

from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.core.errors import ServerBusy
from corral.core.lru import SizedLruDict
from corral.core.requests.requests import SamplingParams

__all__ = ("DryPrototype", "DryPrototypes")

_KEPT_BYTES = 64 << 20
_LIVE_BYTES = 512 << 20
_BYTES_PER_TOKEN_AND_BREAKER = 16
"""Measured with 32 letters as breakers, which most tokens contain."""

_Key = tuple[float, float, int, int, tuple[str, ...]]


class DryPrototype:
    """A sampler that has seen no tokens. It is freed with this object; the caller owns the copies."""

    def __init__(self, chain: Any, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._chain = chain
        weakref.finalize(self, C.llama_sampler_free, chain).atexit = False

    def copy(self) -> Any:
        return C.llama_sampler_clone(self._chain)


class DryPrototypes:
    """The samplers of one model, shared by requests with the same parameters. Thread-safe."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._kept: SizedLruDict[_Key, DryPrototype] = SizedLruDict(_KEPT_BYTES)
        self._live: weakref.WeakSet[DryPrototype] = weakref.WeakSet()
        self._lock = threading.Lock()

    def has(self, params: SamplingParams, last_n: int) -> bool:
        """Whether `get` is quick."""
        return self._kept.get(_key(params, last_n)) is not None

    def get(self, params: SamplingParams, last_n: int) -> DryPrototype:
        """Slow for new parameters. Raises `ServerBusy` if requests hold too many samplers."""
        key = _key(params, last_n)
        found = self._kept.get(key)
        if found is None:
            size_bytes = self._model.vocabulary_size * len(params.dry_sequence_breakers) * _BYTES_PER_TOKEN_AND_BREAKER
            with self._lock:
                live_bytes = sum(prototype.size_bytes for prototype in self._live)
            if live_bytes + size_bytes > _LIVE_BYTES:
                raise ServerBusy(
                    "running requests use too many different dry_sequence_breakers",
                    "use the same breakers, or try again later",
                )
            found = DryPrototype(self._make(params, last_n), size_bytes)
            with self._lock:
                self._live.add(found)
            self._kept.put(key, found, size_bytes)
        return found

    def _make(self, params: SamplingParams, last_n: int) -> Any:
        breakers = [text.encode("utf-8", "replace") for text in params.dry_sequence_breakers]
        return C.llama_sampler_init_dry(
            self._model.vocab,
            params.dry_multiplier,
            params.dry_base,
            params.dry_allowed_length,
            last_n,
            (ctypes.c_char_p * len(breakers))(*breakers),
            len(breakers),
        )


def _key(params: SamplingParams, last_n: int) -> _Key:
    return (
        params.dry_multiplier,
        params.dry_base,
        params.dry_allowed_length,
        last_n,
        params.dry_sequence_breakers,
    )

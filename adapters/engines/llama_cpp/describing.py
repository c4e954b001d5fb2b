"""What a llama.cpp model says of itself, which changes with the size of its context."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from corral.adapters.engines.llama_cpp.context_settings import ContextSettings
from corral.adapters.engines.llama_cpp.guessing import Guessing
from corral.adapters.engines.llama_cpp.native_context import ContextSize
from corral.core.ports.running import ModelInfo, PrefixTier

__all__ = ("Description",)


_LOOK_S = 1.0


class Description:
    """`fixed` is what stays; its `memory_bytes` are those of the weights. `size` is that of the context now, and `most`
    what it can become. `prefixes` are looked at once per second.
    """

    def __init__(
        self,
        fixed: ModelInfo,
        settings: ContextSettings,
        size: Callable[[], ContextSize],
        most: ContextSize,
        prefixes: Callable[[], tuple[PrefixTier, ...]],
        guessing: Guessing | None,
    ) -> None:
        self._fixed = fixed
        self._settings = settings
        self._size = size
        self._most = most
        self._prefixes = prefixes
        self._guessing = guessing
        self._next_look_s = 0.0
        self._described: tuple[ContextSize, ModelInfo] | None = None

    def info(self) -> ModelInfo:
        """The same object as long as nothing has changed."""
        size = self._size()
        if self._described is None or self._described[0] != size:
            self._described = (size, self._of(size))
        now = time.monotonic()
        if now >= self._next_look_s:
            self._next_look_s = now + _LOOK_S
            prefixes = self._prefixes()
            described = self._described[1]
            if prefixes != described.prefixes or self._guesses.items() - described.details.items():
                details = {**described.details, **self._guesses}
                self._described = (size, msgspec.structs.replace(described, prefixes=prefixes, details=details))
        return self._described[1]

    @property
    def _guesses(self) -> dict[str, str]:
        return {} if self._guessing is None else {"guesses": self._guessing.told}

    def _of(self, size: ContextSize) -> ModelInfo:
        grows = "" if size == self._most else f", up to {self._most.streams} x {self._most.cells}"
        added_bytes = self._settings.context_bytes(size)
        added_bytes += 0 if self._guessing is None else self._guessing.size_bytes
        return msgspec.structs.replace(
            self._fixed,
            prefixes=self._prefixes(),
            memory_bytes={device: weights + added_bytes for device, weights in self._fixed.memory_bytes.items()},
            details={**self._fixed.details, "streams": f"{size.streams} x {size.cells} tokens{grows}"} | self._guesses,
        )

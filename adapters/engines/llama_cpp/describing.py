"""What a llama.cpp model says of itself, which changes with the size of its context."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from corral.adapters.engines.llama_cpp.context_settings import ContextSettings
from corral.adapters.engines.llama_cpp.guessing import Guessing
from corral.adapters.engines.llama_cpp.native_context import ContextSize
from corral.core.ports.running import ModelInfo

__all__ = ("Description",)


class Description:
    """`fixed` is what stays; its `memory_bytes` are those of the weights. `size` is that of the context now, and `most`
    what it can become.
    """

    def __init__(
        self,
        fixed: ModelInfo,
        settings: ContextSettings,
        size: Callable[[], ContextSize],
        most: ContextSize,
        guessing: Guessing | None,
    ) -> None:
        self._fixed = fixed
        self._settings = settings
        self._size = size
        self._most = most
        self._guessing = guessing
        self._described: tuple[ContextSize, str | None, ModelInfo] | None = None

    def info(self) -> ModelInfo:
        """The same object as long as nothing has changed."""
        size = self._size()
        guesses = None if self._guessing is None else self._guessing.told
        if self._described is None or self._described[:2] != (size, guesses):
            self._described = (size, guesses, self._of(size, guesses))
        return self._described[2]

    def _of(self, size: ContextSize, guesses: str | None) -> ModelInfo:
        grows = "" if size == self._most else f", up to {self._most.streams} x {self._most.cells}"
        context_bytes = self._settings.context_bytes(size)
        return msgspec.structs.replace(
            self._fixed,
            memory_bytes={device: weights + context_bytes for device, weights in self._fixed.memory_bytes.items()},
            details={
                **self._fixed.details,
                "streams": f"{size.streams} x {size.cells} tokens{grows}",
                **({} if guesses is None else {"guesses": guesses}),
            },
        )

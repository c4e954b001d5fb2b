"""Opens what a model keeps of computed prefixes besides its streams: how much, and where."""

from __future__ import annotations

from corral.adapters.engine_kit.prefixes.prefix_cache import PrefixCache
from corral.adapters.engines.llama_cpp.spec import LlamaCppOptions
from corral.adapters.system.memory import free_memory

__all__ = ("open_prefix_cache",)

_SHARE_OF_FREE = 8


def open_prefix_cache(options: LlamaCppOptions, *, divisible: bool) -> PrefixCache:
    """`divisible`: whether the model's memory can be cut anywhere."""
    memory_bytes = options.prefix_memory
    if memory_bytes is None:
        memory_bytes = min(free_memory().values(), default=0) // _SHARE_OF_FREE
    return PrefixCache(memory_bytes=max(0, memory_bytes), divisible=divisible)

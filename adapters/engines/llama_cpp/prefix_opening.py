"""Opens what a model keeps of computed prefixes besides its streams: how much, and what a file must match."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import llama_cpp as C
import msgspec

from corral.adapters.engine_kit.prefixes.prefix_cache import PrefixCache
from corral.adapters.engine_kit.prefixes.prefix_files import PrefixFiles
from corral.adapters.engine_kit.prefixes.prefix_folder import PrefixFolder
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.prefix_tiers import PrefixTiers
from corral.adapters.engines.llama_cpp.spec import LlamaCppOptions
from corral.adapters.engines.llama_cpp.streams import Streams
from corral.adapters.system.memory import free_memory
from corral.core.specs.engines import LoadRequest

__all__ = ("open_tiers",)

_GENERATION = "1"
"""Increased when states, their keys or their notes come to mean something else."""
_SHARE_OF_FREE = 8
_HARMLESS = frozenset(
    [
        "num_ctx",
        "num_batch",
        "num_parallel",
        "num_thread",
        "max_prefill_tokens",
        "prefix_memory",
        "prefix_disk",
        "guess",
    ]
)
"""Options that change no state. `num_ctx` does for some models, which is told apart."""


def open_tiers(
    request: LoadRequest, options: LlamaCppOptions, streams: Streams, context: LlamaContext, *computed: object
) -> PrefixTiers:
    """`computed`: what was decided and measured at load that states depend on."""
    memory_bytes = options.prefix_memory
    if memory_bytes is None:
        memory_bytes = min(free_memory().values(), default=0) // _SHARE_OF_FREE
    files = None
    if request.cache_folder and options.prefix_disk > 0:
        scaled = context.model.scales_positions(context.num_ctx)
        owner = _owner(request, options, repr((*computed, scaled, context.portable or context.size.streams)))
        if owner is not None:
            files = PrefixFiles(PrefixFolder(Path(request.cache_folder), options.prefix_disk), owner, request.model)
    cache = PrefixCache(memory_bytes=max(0, memory_bytes), divisible=streams.divisible, files=files)
    return PrefixTiers(streams, context, cache, close_grace_s=request.close_grace_s)


def _owner(request: LoadRequest, options: LlamaCppOptions, computed: str) -> str | None:
    """Everything that the states of this model depend on besides the keys; None if a file's content is not known."""
    digests = [(file.role, file.digest, file.scale) for file in request.files]
    weights = next((digest for role, digest, _ in digests if role == "weights"), None)
    if weights is None or any(digest is None for _, digest, _ in digests):
        return None
    chosen = {key: value for key, value in msgspec.structs.asdict(options).items() if key not in _HARMLESS}
    depends = hashlib.sha256()
    for part in (
        _GENERATION,
        repr(digests),
        repr(sorted(chosen.items())),
        computed,
        *_build(),
        *_processor(),
        _pillow(),
    ):
        depends.update(part.encode() + b"\0")
    return f"{weights}/{depends.hexdigest()}"


def _build() -> Iterator[str]:
    """Identifies llama.cpp as it was compiled here: the libraries, and what they were compiled for."""
    yield version("llama-cpp-python")
    yield C.llama_print_system_info().decode("utf-8", "replace")
    libraries = Path(C.__file__).parent / "lib"
    for path in sorted(libraries.glob("*")):
        status = os.stat(path)
        yield f"{path.name} {status.st_size} {status.st_mtime_ns}"


def _processor() -> Iterator[str]:
    """Kernels are chosen by what the processor can do."""
    yield " ".join((platform.system(), platform.machine(), platform.processor()))
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for name in ("model name", "flags", "Features", "CPU part"):
        yield next((line for line in lines if line.startswith(name)), "")


def _pillow() -> str:
    """It decodes images, whose keys are those of their files."""
    try:
        return version("pillow")
    except PackageNotFoundError:
        return ""

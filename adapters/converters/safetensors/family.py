"""What a family of architectures defines: which keys and tensors its GGUF has, and from which tensors they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from corral.adapters.converters.safetensors.checkpoint import Checkpoint

__all__ = ("CheckpointFamily", "PlannedTensor")


class PlannedTensor(NamedTuple):
    """A tensor of the GGUF, made of the `sources` of the checkpoint.

    `shape` is in NumPy's order; None: that of the source. `rearrange` gets the sources as they are stored (float32,
    float16, or the bits of bfloat16 as uint16) and returns the same numbers in another order, or several tensors as
    one; `compute` gets float32 (what `rearrange` returned), and returns float32. Without both, the only source is
    copied in pieces. A tensor without sources is what `compute` returns for no arguments. `keep_f32`: it is float32
    whatever the type of the file is, as llama.cpp requires for vectors and some tables; vectors always are.
    """

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...] | None = None
    rearrange: Callable[..., NDArray[Any]] | None = None
    compute: Callable[..., NDArray[Any]] | None = None
    keep_f32: bool = False


class CheckpointFamily(Protocol):
    """One family, as a module or an object. All three raise `InvalidModelFile` for what is missing or impossible, and
    `Unsupported` for what llama.cpp cannot compute."""

    def keys(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        """``general.architecture`` and the keys of the architecture, without those of the tokenizer."""
        ...

    def tensors(self, checkpoint: Checkpoint) -> Iterable[PlannedTensor]:
        """All tensors, in the order in which they are written. A tensor of the checkpoint that none of them names is
        an error, unless `ignored` says otherwise."""
        ...

    def ignored(self, name: str) -> bool:
        """Whether a tensor of the checkpoint is left out on purpose."""
        ...

    def tokenizer(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        """The keys of ``tokenizer``: most families return `tokenizer_keys(checkpoint)`."""
        ...

"""Decides which weights a new model may have quantized: `check_quantization`, and the port that does it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from corral.core.errors import InvalidRequest
from corral.core.models.model import Model, ModelFile, ModelMetadata
from corral.core.models.names import ModelName
from corral.core.models.quantization_types import QuantizationType, quantization_type

__all__ = ("UNQUANTIZED", "Quantizer", "check_quantization", "known_quantization")

_OLLAMAS_TYPES = ("F32", "F16", "Q4_K_S", "Q4_K_M", "Q8_0")
_ONLY_FLOATS = "quantization is only supported for F16, BF16 and F32 models"
UNQUANTIZED = ("F16", "BF16", "F32")
"""Types whose weights can be quantized without losing quality twice, and which converters make."""


class Quantizer(Protocol):
    """Makes weights of another type."""

    def require(self, wanted: QuantizationType, *, importance_matrix: Path | None, width: int | None = None) -> None:
        """Called before weights are made that are then quantized. Raises `InvalidRequest` if `wanted` needs an
        importance matrix for weights of this `width` (`needs_matrix`) and there is none, `Unsupported` and
        `EngineNotInstalled` if nothing here quantizes."""
        ...

    async def quantize(
        self,
        name: ModelName,
        model: Model,
        metadata: ModelMetadata,
        wanted: QuantizationType,
        *,
        requantize: bool,
        importance_matrix: Path | None,
        path: Path | None = None,
        on_progress: Callable[[float], None],
    ) -> ModelFile:
        """The weights of `model`, which will be stored as `name`, in the type `wanted`: a blob of the store that no
        manifest names yet. With `path`, the weights are this file, which is in no store.

        Cancelling it leaves nothing behind. Raises `Unsupported` and `InvalidRequest` for what cannot be quantized,
        `EngineNotInstalled`, `OutOfSpace`, and `JobFailed`.
        """
        ...


def known_quantization(wanted: str) -> QuantizationType:
    """The type of that name. Raises `InvalidRequest` with Ollama's text if there is none."""
    kind = quantization_type(wanted)
    if kind is None:
        raise InvalidRequest(
            f"unsupported quantization type {wanted.upper()} - supported types are {', '.join(_OLLAMAS_TYPES)}",
            f"Corral has these as well: {', '.join(one for one in QuantizationType if one not in _OLLAMAS_TYPES)}",
        )
    return kind


def check_quantization(wanted: str, metadata: ModelMetadata | None, *, requantize: bool) -> QuantizationType | None:
    """The type to quantize to; None if the weights have it already. `metadata` is None for weights without a
    header, such as those of a folder. Raises `InvalidRequest` with Ollama's texts."""
    kind = known_quantization(wanted)
    if metadata is not None and metadata.file_type == kind:
        return None
    if metadata is None:
        raise InvalidRequest(_ONLY_FLOATS, "these weights are in another format: only weights in GGUF can be quantized")
    if not (metadata.file_type in UNQUANTIZED or requantize):
        raise InvalidRequest(
            _ONLY_FLOATS,
            "weights that are quantized already lose quality once more; corral quantize --requantize does it",
        )
    return kind

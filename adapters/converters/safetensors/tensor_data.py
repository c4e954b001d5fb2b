"""Makes the data of one tensor of the GGUF from those of the checkpoint, piece by piece where that is possible."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corral.adapters.converters.safetensors.family import PlannedTensor
from corral.adapters.formats.gguf.sixteen_bits import in_type, to_float32
from corral.adapters.formats.safetensors.header import ELEMENT_BYTES
from corral.adapters.formats.safetensors.tensors import SafetensorsFiles
from corral.core.errors import InvalidModelFile

__all__ = ("element_bytes", "pieces_of")

_PIECE_ELEMENTS = 4 * 1024 * 1024


def element_bytes(type_name: str) -> int:
    """The bytes of a number of the type ``F32``, ``F16`` or ``BF16``."""
    return ELEMENT_BYTES[type_name]


def pieces_of(tensors: SafetensorsFiles, planned: PlannedTensor, type_name: str) -> Iterator[NDArray[Any]]:
    """All numbers of the planned tensor in order, as `type_name` is stored, in flat pieces.

    Raises `InvalidModelFile` for numbers that are too large for F16, and as `SafetensorsFiles.numbers`.
    """
    if planned.rearrange is None and planned.compute is None:
        (source,) = planned.sources
        dtype = tensors.dtype(source)
        for piece in tensors.pieces(source, _PIECE_ELEMENTS):
            yield _stored(planned, dtype, type_name, piece)
        return
    dtype, whole = _made(tensors, planned)
    flat = whole.reshape(-1)
    for start in range(0, flat.size, _PIECE_ELEMENTS):
        yield _stored(planned, dtype, type_name, flat[start : start + _PIECE_ELEMENTS])


def _made(tensors: SafetensorsFiles, planned: PlannedTensor) -> tuple[str, NDArray[Any]]:
    """The whole tensor, and the type that its numbers have: that of its sources if they agree, else float32."""
    dtypes = {tensors.dtype(name) for name in planned.sources}
    sources = [tensors.numbers(name) for name in planned.sources]
    if len(dtypes) == 1:
        (dtype,) = dtypes
    else:
        named = zip(planned.sources, sources, strict=True)
        sources = [to_float32(tensors.dtype(name), numbers) for name, numbers in named]
        dtype = "F32"
    if planned.rearrange is not None:
        sources = [planned.rearrange(*sources)]
    if planned.compute is None:
        return dtype, sources[0]
    return "F32", np.asarray(planned.compute(*(to_float32(dtype, source) for source in sources)), np.float32)


def _stored(planned: PlannedTensor, dtype: str, type_name: str, numbers: NDArray[Any]) -> NDArray[Any]:
    if dtype == type_name:
        return numbers
    wide = to_float32(dtype, numbers)
    narrow = in_type(type_name, wide)
    if type_name == "F16" and not np.isfinite(narrow).all() and np.isfinite(wide).all():
        raise InvalidModelFile(
            f"the tensor {planned.name!r} has numbers that are too large for F16",
            "convert it to BF16 or F32",
        )
    return narrow

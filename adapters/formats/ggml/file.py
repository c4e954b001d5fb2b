"""Reads the numbers, vocabulary and tensor list of a GGML file; its family is the one whose layout fits exactly."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from typing import NamedTuple

from corral.adapters.formats.ggml.layouts import LAYOUTS, Layout
from corral.adapters.formats.gguf.tables import FILE_TYPES, TENSOR_TYPES
from corral.core.errors import InvalidModelFile
from corral.core.random_access import RandomAccess, buffered

__all__ = ("MAGIC", "GgmlFile", "GgmlTensor", "read_ggml")

MAGIC = b"lmgg"
"""``ggml`` as a little-endian number."""

_QUANTIZATION_VERSION_FACTOR = 1000
_MAX_TOKEN_BYTES = 4096
_MAX_LAYERS = 1024
_MAX_WIDTH = 1 << 17
_MAX_TOKENS = 1 << 20
_VOCABULARY_LIMIT_BYTES = 32 * 1024 * 1024
_U32 = struct.Struct("<I")
_KNOWN_TYPES = frozenset({"F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"})


class GgmlTensor(NamedTuple):
    """`shape` is in file order, the fastest dimension first."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    size_bytes: int


class GgmlFile(NamedTuple):
    """`family` is the model type in ctransformers' terms. `scores` is empty if the layout has none."""

    family: str
    layout: Layout
    numbers: Mapping[str, int | float]
    type_name: str
    tokens: tuple[bytes, ...]
    scores: tuple[float, ...]
    tensors: tuple[GgmlTensor, ...]


def read_ggml(source: RandomAccess) -> GgmlFile:
    """Reads the file in the one layout that fits. Raises `InvalidModelFile` that says how far the best one got."""
    best, farthest = "", -1
    for layout in LAYOUTS:
        try:
            return _Reading(source, layout).run()
        except _Mismatch as mismatch:
            if mismatch.offset_bytes > farthest:
                best, farthest = (
                    f"read as {layout.name}, at byte {mismatch.offset_bytes}: {mismatch}",
                    mismatch.offset_bytes,
                )
    families = ", ".join(name for layout in LAYOUTS for name in (layout.name, layout.twin) if name)
    raise InvalidModelFile(
        f"{source.name}: not a GGML file of a known family ({families}); {best}",
        "fetch it again, or fetch the model as GGUF",
    )


class _Mismatch(Exception):
    def __init__(self, offset_bytes: int, text: str) -> None:
        super().__init__(text)
        self.offset_bytes = offset_bytes


class _Reading:
    """An attempt to read the file in one layout."""

    def __init__(self, source: RandomAccess, layout: Layout) -> None:
        self._file = buffered(source)
        self._layout = layout
        self._size = source.size_bytes

    def run(self) -> GgmlFile:
        layout = self._layout
        if self._take(4) != MAGIC:
            raise self._mismatch("it does not begin like a GGML file")
        numbers = self._numbers()
        type_name = FILE_TYPES.get(int(numbers["type"]) % _QUANTIZATION_VERSION_FACTOR, "")
        if type_name not in _KNOWN_TYPES:
            raise self._mismatch(f"{numbers['type']} is not a weights type")
        tokens, scores = self._vocabulary(int(numbers["vocabulary"]))
        tensors = self._tensors(numbers, type_name)
        family = layout.twin if layout.twin_tokens & set(tokens) else layout.name
        return GgmlFile(family, layout, numbers, type_name, tokens, scores, tensors)

    def _numbers(self) -> dict[str, int | float]:
        layout = self._layout
        codes = "".join("f" if name in layout.floats else "i" for name in layout.fields)
        numbers = dict(zip(layout.fields, struct.unpack(f"<{codes}", self._take(4 * len(codes))), strict=True))
        limits = {
            "vocabulary": _MAX_TOKENS,
            "context": 1 << 24,
            "width": _MAX_WIDTH,
            "heads": 4096,
            "layers": _MAX_LAYERS,
        }
        for name, limit in limits.items():
            if not 1 <= numbers[name] <= limit:
                raise self._mismatch(f"{name} is {numbers[name]}")
        if numbers["width"] % numbers["heads"]:
            raise self._mismatch(f"a width of {numbers['width']} cannot be divided among {numbers['heads']} heads")
        rotated = numbers.get("rotated", 2)
        if not 2 <= rotated <= numbers["width"] // numbers["heads"] or rotated % 2:
            raise self._mismatch(f"{rotated} numbers of a head are rotated")
        return numbers

    def _vocabulary(self, count: int) -> tuple[tuple[bytes, ...], tuple[float, ...]]:
        kind = self._layout.vocabulary
        if kind == "counted" and (found := self._u32()) != count:
            raise self._mismatch(f"the vocabulary has {found} tokens, but the header says {count}")
        tokens, scores, size_bytes = list[bytes](), list[float](), 0
        for _ in range(count):
            length = self._u32()
            if length > _MAX_TOKEN_BYTES:
                raise self._mismatch(f"a token claims to be {length} bytes long")
            size_bytes += length
            if size_bytes > _VOCABULARY_LIMIT_BYTES:
                raise self._mismatch(f"the tokens take more than {_VOCABULARY_LIMIT_BYTES} bytes")
            token = self._take(length)
            tokens.append(self._latin(token) if kind == "latin" else token)
            if kind == "scored":
                scores.append(struct.unpack("<f", self._take(4))[0])
        return tuple(tokens), tuple(scores)

    def _latin(self, token: bytes) -> bytes:
        # The native code cuts each character to its lowest byte.
        try:
            return bytes([ord(character) & 0xFF for character in token.decode()])
        except UnicodeDecodeError:
            raise self._mismatch("a token is not valid UTF-8") from None

    def _tensors(self, numbers: Mapping[str, int | float], type_name: str) -> tuple[GgmlTensor, ...]:
        layout = self._layout
        wanted = layout.shapes(numbers)
        found: dict[str, GgmlTensor] = {}
        while self._file.tell() < self._size:
            tensor = self._tensor()
            shape = wanted.get(tensor.name)
            if shape is None or tensor.name in found:
                raise self._mismatch(f"the tensor {tensor.name[:80]!r} does not belong here")
            if tensor.shape != shape:
                raise self._mismatch(f"the tensor {tensor.name!r} is {tensor.shape}, but must be {shape}")
            own = "F32" if len(shape) == 1 or tensor.name in layout.float_tensors else type_name
            if tensor.type_name != own:
                raise self._mismatch(f"the tensor {tensor.name!r} is {tensor.type_name}, but must be {own}")
            found[tensor.name] = tensor
        missing = [name for name in wanted if name not in found and name not in layout.optional]
        if missing:
            raise self._mismatch(f"it ends without the tensor {missing[0]!r}: it is truncated")
        return tuple(found.values())

    def _tensor(self) -> GgmlTensor:
        dimensions, length, kind = self._u32(), self._u32(), self._u32()
        if dimensions not in (1, 2) or length > _MAX_TOKEN_BYTES or kind not in TENSOR_TYPES:
            raise self._mismatch("what follows is not a tensor")
        shape = tuple(self._u32() for _ in range(dimensions))
        name = self._take(length).decode("utf-8", "replace")
        type_name, block, block_bytes = TENSOR_TYPES[kind]
        size_bytes = math.prod(shape) // block * block_bytes
        if shape[0] % block or self._file.tell() + size_bytes > self._size:
            raise self._mismatch(f"the tensor {name[:80]!r} extends past the end of the file: it is truncated")
        self._file.seek(size_bytes, os.SEEK_CUR)
        return GgmlTensor(name, type_name, shape, size_bytes)

    def _u32(self) -> int:
        return int(_U32.unpack(self._take(4))[0])

    def _take(self, size_bytes: int) -> bytes:
        data = self._file.read(size_bytes)
        if len(data) < size_bytes:
            raise self._mismatch("the file ends here: it is truncated")
        return data

    def _mismatch(self, text: str) -> _Mismatch:
        return _Mismatch(self._file.tell(), text)

"""Joins the parts of a split GGUF file into the file that they were made from.

Source: tools/gguf-split and llama-model-loader.cpp of llama.cpp. Every part says in ``split.no`` which one it is, in
``split.count`` how many there are, and in ``split.tensors.count`` how many tensors they have together. Only the first
has the other key-values. What comes out is what was split, byte for byte, unless that had these keys already.
"""

from __future__ import annotations

from collections.abc import Sequence

from corral.adapters.formats.gguf.header import Header, HeaderFile, Tensor
from corral.adapters.formats.gguf.writer import NewTensor, assembled_header, padding
from corral.core.errors import InvalidModelFile
from corral.core.go.quoting import quote
from corral.core.ports.metadata import JoinedRange, JoinedWeights, SplitPart
from corral.core.random_access import RandomAccess

__all__ = ("COUNT", "join_parts", "part_of")

COUNT = "split.count"
_NUMBER, _TENSORS = "split.no", "split.tensors.count"
_SPLIT_KEYS = (_NUMBER, COUNT, _TENSORS)
_MOST_PARTS = 65_535
_MOST_ALIGNMENT_BYTES = 1 << 20
_HOW = "fetch all parts of the model again, from the same place"


def part_of(source: RandomAccess) -> SplitPart | None:
    """What `SplitReader.part` promises."""
    pairs = HeaderFile(source).header().pairs
    count, number = pairs.get(COUNT, 1), pairs.get(_NUMBER)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= _MOST_PARTS:
        raise InvalidModelFile(f"split GGUF {quote(source.name)} has an invalid split.count: {str(count)[:40]!r}", _HOW)
    if count <= 1:
        return None
    if number is None:
        raise InvalidModelFile(f"split GGUF {quote(source.name)} is missing split.no metadata", _HOW)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < count:
        raise InvalidModelFile(f"split GGUF {quote(source.name)} has invalid shard index {str(number)[:40]}", _HOW)
    return SplitPart(number=number, count=count)


def join_parts(sources: Sequence[RandomAccess]) -> JoinedWeights:
    """What `SplitReader.join` promises."""
    files = [HeaderFile(source) for source in sources]
    headers = [file.header() for file in files]
    first = headers[0]
    _check(sources, headers)
    if first.alignment > _MOST_ALIGNMENT_BYTES:
        raise InvalidModelFile(f"{sources[0].name}: general.alignment is {first.alignment}, which no real model has")
    pairs = [
        sources[0].read(start, end - start) for key, (start, end) in first.pair_spans.items() if key not in _SPLIT_KEYS
    ]
    tensors = [tensor for header in headers for tensor in header.tensors]
    return JoinedWeights(
        header=assembled_header(first.version, pairs, [_new(tensor) for tensor in tensors], first.alignment),
        ranges=tuple(_ranges(headers, first.alignment)),
    )


def _check(sources: Sequence[RandomAccess], headers: Sequence[Header]) -> None:
    owners: dict[str, str] = {}
    expected = headers[0].pairs.get(_TENSORS)
    for source, header in zip(sources, headers, strict=True):
        if header.pairs.get(_TENSORS) != expected:
            raise InvalidModelFile(
                f"split GGUF {quote(source.name)} is part of another model than {quote(sources[0].name)}: "
                f"its split.tensors.count is {str(header.pairs.get(_TENSORS))[:40]}, not {str(expected)[:40]}",
                _HOW,
            )
        for tensor in header.tensors:
            if tensor.name in owners:
                raise InvalidModelFile(
                    f"split GGUF {quote(source.name)} is part of another model than {quote(owners[tensor.name])}: "
                    f"both have the tensor {tensor.name!r}",
                    _HOW,
                )
            owners[tensor.name] = source.name
    if expected is not None and expected != len(owners):
        raise InvalidModelFile(
            f"the parts of split GGUF {quote(sources[0].name)} have {len(owners)} tensors together, "
            f"not the {str(expected)[:40]} of its split.tensors.count",
            _HOW,
        )


def _ranges(headers: Sequence[Header], alignment: int) -> list[JoinedRange]:
    """The data of all tensors; what follows each other in a part as it will in the whole is one range."""
    found: list[JoinedRange] = []
    for number, header in enumerate(headers):
        for tensor in header.tensors:
            start, end = tensor.offset_bytes, tensor.offset_bytes + tensor.size_bytes
            last = found[-1] if found else None
            if last is not None and last.number == number and last.end + last.padding_bytes == start:
                start = found.pop().start
            found.append(
                JoinedRange(number=number, start=start, end=end, padding_bytes=padding(tensor.size_bytes, alignment))
            )
    return found


def _new(tensor: Tensor) -> NewTensor:
    return NewTensor(tensor.name, tensor.type_name, tensor.shape, tensor.size_bytes)

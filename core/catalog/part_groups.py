"""Finds out which files are parts of the same weights, and whether these are all there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corral.core.errors import InvalidModelFile
from corral.core.go.quoting import quote
from corral.core.models.digests import Digest
from corral.core.models.split_names import PartName, parse_part_name
from corral.core.ports.metadata import SplitPart
from corral.core.values import Value
from corral.core.wording.clipping import clipped

__all__ = ("PartFile", "part_groups")

_SHOWN = 5
_WHERE_THEY_ARE = "all parts are needed, with the names that they were made with: NAME-00001-of-00003.gguf"


class PartFile(Value, frozen=True, kw_only=True):
    """A file that may be a part: its name for people, and the blob or the file of this machine."""

    name: str
    place: Digest | Path


def part_groups(
    files: Sequence[tuple[PartFile, SplitPart | None]], *, named: bool = True
) -> tuple[tuple[PartFile, ...], ...]:
    """The parts of each split file, in their order; files that are whole are left out.

    Unless they are `named`, all parts belong to one file. Raises `InvalidModelFile`, with Ollama's texts, for names and
    headers that contradict each other, and for parts that are missing or there twice.
    """
    groups: dict[tuple[str, int], dict[int, PartFile]] = {}
    for file, part in files:
        if part is not None:
            group = groups.setdefault((_stem(file.name, part) if named else "", part.count), {})
            if part.number in group:
                raise InvalidModelFile(
                    f"split GGUF has duplicate shard index {part.number}",
                    f"{group[part.number].name} and {file.name} both say so",
                )
            group[part.number] = file
    if not named and len(groups) > 1:
        counts = " and ".join(str(count) for _, count in groups)
        raise InvalidModelFile(f"these are parts of different files, of {counts} parts")
    for file, part in files:
        name = parse_part_name(file.name)
        if part is None and name is not None and (name.stem, name.count) in groups:
            raise InvalidModelFile(
                f"split GGUF {quote(file.name)} is missing split.count metadata",
                "it is no part of the model: fetch it again, or rename it",
            )
    return tuple(_complete(group, count) for (_, count), group in groups.items())


def _stem(file_name: str, part: SplitPart) -> str:
    name = parse_part_name(file_name)
    shown = quote(file_name)
    if name is None:
        raise InvalidModelFile(f"split GGUF {shown} must use llama.cpp split filename pattern", _WHERE_THEY_ARE)
    if name.count != part.count:
        raise InvalidModelFile(
            f"split GGUF {shown} filename count {name.count} does not match metadata count {part.count}",
            _WHERE_THEY_ARE,
        )
    if name.number != part.number:
        raise InvalidModelFile(
            f"split GGUF {shown} filename index {name.number} does not match metadata index {part.number}",
            _WHERE_THEY_ARE,
        )
    return name.stem


def _complete(group: dict[int, PartFile], count: int) -> tuple[PartFile, ...]:
    missing = [number for number in range(count) if number not in group]
    if missing:
        first = group[min(group)].name
        raise InvalidModelFile(
            f"split GGUF {quote(first)} has {len(group)} shards, expected {count}",
            f"missing: {', '.join(_shown(number, count, parse_part_name(first)) for number in missing[:_SHOWN])}"
            + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""),
        )
    return tuple(group[number] for number in range(count))


def _shown(number: int, count: int, sibling: PartName | None) -> str:
    return f"part {number + 1} of {count}" if sibling is None else clipped(sibling.of(number), 200)

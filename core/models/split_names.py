"""Names of the files that weights are split into: ``NAME-00001-of-00003.gguf``, as llama.cpp writes them."""

from __future__ import annotations

import re

from corral.core.values import Value

__all__ = ("PartName", "is_split_name", "parse_part_name", "whole_name")

_NAME = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<ending>\.gguf)", re.DOTALL)


class PartName(Value, frozen=True, kw_only=True):
    """`number` begins at 0. `stem` is all before the numbers, with folders if the name has them."""

    stem: str
    number: int
    count: int

    @property
    def whole(self) -> str:
        """The name of the file that the parts were made from."""
        return f"{self.stem}.gguf"

    @property
    def siblings(self) -> tuple[str, ...]:
        """The names of all parts in their order, this one included."""
        return tuple(self.of(number) for number in range(self.count))

    def of(self, number: int) -> str:
        """The name of another part."""
        return f"{self.stem}-{number + 1:05d}-of-{self.count:05d}.gguf"


def parse_part_name(name: str) -> PartName | None:
    """None for the name of a file that is whole."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    number, count = int(found["number"]), int(found["count"])
    return PartName(stem=found["stem"], number=number - 1, count=count) if 0 < number <= count else None


def is_split_name(name: str) -> bool:
    """Whether this is one of several parts, by its name."""
    found = parse_part_name(name)
    return found is not None and found.count > 1


def whole_name(name: str) -> str:
    """The name without the numbers of a part."""
    found = parse_part_name(name)
    return name if found is None else found.whole

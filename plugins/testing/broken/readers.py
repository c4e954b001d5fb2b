"""A sound metadata reader, and readers that break one promise each: they show that `MetadataReaderContract` sees it."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec.structs import replace

from corral.adapters.formats.gguf import GgufReader
from corral.core.errors import InvalidModelFile, StorageError
from corral.core.models.model import ModelMetadata
from corral.core.random_access import RandomAccess

__all__ = ("READERS", "SoundReader")


class SoundReader(GgufReader):
    """A `MetadataReader` that keeps every promise."""

    breaks: ClassVar[str | None] = None
    """The test that fails with this reader, and no other does."""


class NominalReader(SoundReader):
    """Looks at the name of a file."""

    breaks = "test_a_file_is_recognised_by_its_content"

    def recognises(self, source: RandomAccess) -> bool:
        return not source.name.endswith(".txt") and super().recognises(source)


class NamelessReader(SoundReader):
    """Knows no architecture."""

    breaks = "test_it_says_what_the_file_is"

    def read(self, source: RandomAccess) -> ModelMetadata:
        return replace(super().read(source), architecture="")


class CountingReader(SoundReader):
    """Numbers the files that it has read."""

    breaks = "test_the_same_file_gives_the_same"

    def __init__(self) -> None:
        self._count = 0

    def read(self, source: RandomAccess) -> ModelMetadata:
        self._count += 1
        return replace(super().read(source), name=f"file {self._count}")


class GreedyReader(SoundReader):
    """Recognizes an empty file."""

    breaks = "test_a_foreign_file"

    def recognises(self, source: RandomAccess) -> bool:
        return source.size_bytes == 0 or super().recognises(source)


class ImpatientReader(SoundReader):
    """Fails for a file that ends too early."""

    breaks = "test_a_damaged_file"

    def tensors(self, source: RandomAccess) -> list[tuple[str, str, tuple[int, ...]]]:
        if source.read(0, 4) == b"GGUF" and source.size_bytes < 64:
            raise ValueError("the header is too short")
        return super().tensors(source)


class ThoroughReader(SoundReader):
    """Reads the whole file."""

    breaks = "test_large_files_are_not_read_whole"

    def read(self, source: RandomAccess) -> ModelMetadata:
        source.read(0, source.size_bytes)
        return super().read(source)


class BlamingReader(SoundReader):
    """Blames the file for everything."""

    breaks = "test_a_file_that_cannot_be_read"

    def read(self, source: RandomAccess) -> ModelMetadata:
        try:
            return super().read(source)
        except StorageError as error:
            raise InvalidModelFile(f"{source.name} has no header") from error


class TalkativeReader(SoundReader):
    """Always shows everything."""

    breaks = "test_arrays_only_if_they_are_wanted"

    def describe(self, source: RandomAccess, *, verbose: bool) -> dict[str, object]:
        return super().describe(source, verbose=True)


class CarelessReader(SoundReader):
    """Returns shapes as text."""

    breaks = "test_tensors"

    def tensors(self, source: RandomAccess) -> list[tuple[str, str, Any]]:
        return [(name, kind, "x".join(map(str, shape))) for name, kind, shape in super().tensors(source)]


READERS: tuple[type[SoundReader], ...] = (
    NominalReader,
    NamelessReader,
    CountingReader,
    GreedyReader,
    ImpatientReader,
    ThoroughReader,
    BlamingReader,
    TalkativeReader,
    CarelessReader,
)
"""The broken readers."""

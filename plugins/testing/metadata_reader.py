"""The contract of metadata readers, as a suite to subclass: set `contents`, and give it a fixture `reader`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import ClassVar

import pytest

from corral.core.errors import InvalidModelFile, StorageError
from corral.core.models.model import ModelMetadata
from corral.core.ports.metadata import MetadataReader

__all__ = ("MetadataReaderContract",)

_FOREIGN = (b"", b"\x00", b"\x00" * 4096, b"\xff" * 4096, b"not a model at all\n" * 100)
_FILE_BYTES = 1 << 40
_MOST_READ_BYTES = 64 << 20


class _Bytes:
    """A `RandomAccess` of bytes and, up to `size_bytes`, zeros; it counts what is read."""

    def __init__(self, data: bytes, *, name: str = "kit-file", size_bytes: int | None = None) -> None:
        self.name = name
        self.size_bytes = len(data) if size_bytes is None else size_bytes
        self.read_bytes = 0
        self._data = data

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        assert offset_bytes >= 0, "read before the beginning of the file"
        assert length_bytes >= 0, "read a negative number of bytes"
        length = min(length_bytes, max(0, self.size_bytes - offset_bytes))
        self.read_bytes += length
        assert self.read_bytes <= _MOST_READ_BYTES, "read the weights, not only the header"
        return self._data[offset_bytes : offset_bytes + length].ljust(length, b"\x00")


class _Unreadable(_Bytes):
    """A blob of a store that can be reached no longer."""

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        raise StorageError(f"{self.name}: the store is gone")


class MetadataReaderContract:
    """What every `MetadataReader` promises.

    A subclass sets `contents`, the bytes of a small file of the format, and gives the fixture `reader`.
    """

    contents: ClassVar[bytes] = b""

    @pytest.fixture
    def reader(self) -> MetadataReader:
        raise NotImplementedError("a subclass of MetadataReaderContract gives the fixture reader")

    def test_a_file_is_recognised_by_its_content(self, reader: MetadataReader) -> None:
        """`contents` is recognised, whatever the name of the file is."""
        assert self.contents, "a subclass of MetadataReaderContract sets contents"
        for name in ("model", "model.txt", "sha256-abc", ""):
            assert reader.recognises(_Bytes(self.contents, name=name)) is True

    def test_it_says_what_the_file_is(self, reader: MetadataReader) -> None:
        """The metadata has the reader's format, an architecture, and no negative or endless numbers."""
        metadata = reader.read(_Bytes(self.contents))
        assert isinstance(metadata, ModelMetadata)
        assert metadata.format == reader.format
        assert metadata.architecture
        counts = (metadata.parameter_count, metadata.tensor_bytes, metadata.block_count)
        lengths = (metadata.context_length, metadata.embedding_length, metadata.vocabulary_size)
        assert all(0 <= number < math.inf for number in (*counts, *(length or 0 for length in lengths)))

    def test_the_same_file_gives_the_same(self, reader: MetadataReader) -> None:
        """A reader remembers nothing: another file in between changes nothing."""
        first = reader.read(_Bytes(self.contents))
        for damaged in (self.contents[: len(self.contents) // 2], b"\x00" * 100):
            _read_all(reader, _Bytes(damaged))
        assert reader.read(_Bytes(self.contents)) == first

    @pytest.mark.parametrize("number", range(len(_FOREIGN)))
    def test_a_foreign_file(self, reader: MetadataReader, number: int) -> None:
        """It is not recognised, and nothing but `InvalidModelFile` is raised for it."""
        assert reader.recognises(_Bytes(_FOREIGN[number])) is False
        _read_all(reader, _Bytes(_FOREIGN[number]))

    def test_a_damaged_file(self, reader: MetadataReader) -> None:
        """Wherever a file is cut off or changed, nothing but `InvalidModelFile` with the file's name is raised."""
        for damaged in _damaged(self.contents):
            assert isinstance(reader.recognises(_Bytes(damaged)), bool)
            _read_all(reader, _Bytes(damaged))

    def test_large_files_are_not_read_whole(self, reader: MetadataReader) -> None:
        """Of a file with a terabyte of weights, only the header is read: it may be in a remote store."""
        reader.recognises(large := _Bytes(self.contents, size_bytes=_FILE_BYTES))
        _read_all(reader, large)

    def test_a_file_that_cannot_be_read(self, reader: MetadataReader) -> None:
        """The error of the `RandomAccess` passes, so that people learn what is wrong with their store."""
        for method in _methods(reader):
            with suppress(StorageError):
                method(_Unreadable(self.contents))

    def test_arrays_only_if_they_are_wanted(self, reader: MetadataReader) -> None:
        """`describe` has text keys, the same ones with and without `verbose`, and without it no array."""
        brief = reader.describe(_Bytes(self.contents), verbose=False)
        full = reader.describe(_Bytes(self.contents), verbose=True)
        assert set(brief) == set(full)
        assert all(isinstance(key, str) for key in brief)
        assert not [key for key, value in brief.items() if isinstance(value, list | tuple | set | dict)]

    def test_tensors(self, reader: MetadataReader) -> None:
        """Each tensor has a name, a type and a shape."""
        for name, kind, shape in reader.tensors(_Bytes(self.contents)):
            assert isinstance(name, str)
            assert isinstance(kind, str)
            assert isinstance(shape, tuple)
            assert all(isinstance(size, int) and size >= 0 for size in shape)


def _methods(reader: MetadataReader) -> tuple[Callable[[_Bytes], object], ...]:
    return (
        reader.read,
        lambda source: reader.describe(source, verbose=False),
        lambda source: reader.describe(source, verbose=True),
        reader.tensors,
    )


def _read_all(reader: MetadataReader, source: _Bytes) -> None:
    for method in _methods(reader):
        try:
            method(source)
        except InvalidModelFile as error:
            if source.name not in str(error):
                pytest.fail(f"InvalidModelFile must name the file, {source.name}, but this one does not: {error}")


def _damaged(contents: bytes) -> Iterator[bytes]:
    for at in range(0, len(contents), max(1, len(contents) // 200)):
        yield contents[:at]
        yield contents[:at] + b"\xff" + contents[at + 1 :]
        yield contents[:at] + b"\x00" + contents[at + 1 :]

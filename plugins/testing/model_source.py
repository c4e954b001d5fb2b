"""The suite that every source of models must pass: `ModelSourceContract`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from itertools import pairwise

import pytest

from corral.core.errors import CorralError, SourceError
from corral.core.models.digests import digest_of
from corral.core.ports.sources import FetchProgress, ModelSource, RemoteFile

__all__ = ("ModelSourceContract",)

_MOST_BYTES = 1 << 20


class ModelSourceContract:
    """Subclass it and provide the fixtures `source`, `reference`, `contents` and `absent`."""

    @pytest.fixture
    def source(self) -> ModelSource:
        raise NotImplementedError("give a fixture called source")

    @pytest.fixture
    def reference(self) -> str:
        """A reference that the source knows."""
        raise NotImplementedError("give a fixture called reference")

    @pytest.fixture
    def contents(self) -> Mapping[str, bytes]:
        """The contents of the model behind `reference`: the bytes of its files, by file name."""
        raise NotImplementedError("give a fixture called contents")

    @pytest.fixture
    def absent(self) -> str:
        """A valid reference to a model that does not exist."""
        raise NotImplementedError("give a fixture called absent")

    def test_the_scheme_begins_references(self, source: ModelSource, reference: str) -> None:
        """References begin with the source's scheme and ``://``."""
        assert reference.startswith(f"{source.scheme}://")

    def test_it_lists_the_files(self, source: ModelSource, reference: str, contents: Mapping[str, bytes]) -> None:
        """All files are listed by name, and by path in a folder or not at all; sizes and digests are right if given."""

        async def check() -> None:
            told: list[FetchProgress] = []
            async with source.resolve(reference, told.append) as remote:
                assert remote.reference == reference
                assert {file.file_name for file in remote.files} == set(contents)
                assert len({file.path is None for file in remote.files}) == 1
                for file in remote.files:
                    data = contents[file.file_name]
                    assert file.size_bytes in (None, len(data))
                    assert file.digest in (None, digest_of(data))
            assert all(step.status for step in told)

        asyncio.run(check())

    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
    def test_it_fetches_from_anywhere(
        self, source: ModelSource, reference: str, contents: Mapping[str, bytes], share: float
    ) -> None:
        """A file is read from any offset to its end, in chunks of at most 1 MiB; at its end there is nothing more."""

        async def check() -> None:
            async with source.resolve(reference, lambda progress: None) as remote:
                for file in remote.files:
                    data = contents[file.file_name]
                    start = int(len(data) * share)
                    async with aclosing(source.fetch(file, start)) as chunks:
                        read = [chunk async for chunk in chunks]
                    assert b"".join(read) == data[start:]
                    assert all(len(chunk) <= _MOST_BYTES for chunk in read)

        asyncio.run(check())

    def test_parts_end_where_they_are_asked_to(
        self, source: ModelSource, reference: str, contents: Mapping[str, bytes]
    ) -> None:
        """Ranges of a file that comes `in_parts` are fetched side by side."""

        async def read(file: RemoteFile, start: int, end: int) -> bytes:
            async with aclosing(source.fetch(file, start, end)) as chunks:
                return b"".join([chunk async for chunk in chunks])

        async def check() -> None:
            async with source.resolve(reference, lambda progress: None) as remote:
                for file in remote.files:
                    if file.in_parts:
                        size_bytes = len(contents[file.file_name])
                        assert file.size_bytes == size_bytes
                        ends = (0, size_bytes // 3, size_bytes // 2, size_bytes)
                        parts = await asyncio.gather(*(read(file, *span) for span in pairwise(ends)))
                        assert b"".join(parts) == contents[file.file_name]

        asyncio.run(check())

    def test_a_fetch_may_end_early(self, source: ModelSource, reference: str, contents: Mapping[str, bytes]) -> None:
        """After a generator is closed early, the file can be fetched again."""

        async def check() -> None:
            async with source.resolve(reference, lambda progress: None) as remote:
                [file, *_] = remote.files
                async with aclosing(source.fetch(file)) as chunks:
                    await anext(chunks)
                async with aclosing(source.fetch(file)) as chunks:
                    assert b"".join([chunk async for chunk in chunks]) == contents[file.file_name]

        asyncio.run(check())

    def test_many_at_once(self, source: ModelSource, reference: str, contents: Mapping[str, bytes]) -> None:
        """Two callers can resolve the same reference; the end of one does not affect the other."""

        async def check() -> None:
            async with source.resolve(reference, lambda progress: None) as remote:
                async with source.resolve(reference, lambda progress: None) as other:
                    assert {file.file_name for file in other.files} == set(contents)
                [file, *_] = remote.files
                async with aclosing(source.fetch(file)) as chunks:
                    assert b"".join([chunk async for chunk in chunks]) == contents[file.file_name]

        asyncio.run(check())

    def test_nothing_behind_a_reference(self, source: ModelSource, absent: str) -> None:
        """A model that does not exist raises `SourceError` with the source's own message."""

        async def check() -> None:
            with pytest.raises(SourceError) as caught:
                async with source.resolve(absent, lambda progress: None):
                    pass
            assert str(caught.value)

        asyncio.run(check())

    @pytest.mark.parametrize("text", ["", " ", "a b", "../up", "--option", "a\0b", "\n"])
    def test_a_reference_that_means_nothing(self, source: ModelSource, text: str) -> None:
        """Spaces, paths, options and control characters raise a `CorralError`, never another exception."""

        async def check() -> None:
            with pytest.raises(CorralError):
                async with source.resolve(f"{source.scheme}://{text}", lambda progress: None):
                    pass

        asyncio.run(check())

    def test_a_file_of_another_source(self, source: ModelSource) -> None:
        """Fetching a file that this source did not list raises `SourceError`."""

        async def check() -> None:
            with pytest.raises(SourceError):
                async with aclosing(source.fetch(RemoteFile(file_name="foreign.gguf"))) as chunks:
                    await anext(chunks)

        asyncio.run(check())

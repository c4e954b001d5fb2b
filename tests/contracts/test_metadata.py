"""Our metadata readers and caches against the contracts of their ports, and the contracts against broken ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.adapters.formats.ggml import GgmlReader
from corral.adapters.formats.gguf import GgufReader
from corral.adapters.stores.metadata_cache import FilesystemMetadataCache
from corral.plugins.testing.broken.caches import CACHES, SoundCache
from corral.plugins.testing.broken.readers import READERS, SoundReader
from corral.plugins.testing.ggml import ggml_bytes
from corral.plugins.testing.gguf import gguf_bytes
from corral.plugins.testing.metadata_cache import MetadataCacheContract
from corral.plugins.testing.metadata_reader import MetadataReaderContract
from tests.contracts.broken_parts import failures, promises


class TestGguf(MetadataReaderContract):
    contents = gguf_bytes()

    @pytest.fixture
    def reader(self) -> GgufReader:
        return GgufReader()


class TestGgml(MetadataReaderContract):
    contents = ggml_bytes("gpt2")

    @pytest.fixture
    def reader(self) -> GgmlReader:
        return GgmlReader()


class TestFilesystemCache(MetadataCacheContract):
    @pytest.fixture
    def cache(self, tmp_path: Path) -> FilesystemMetadataCache:
        return FilesystemMetadataCache(tmp_path)


class _Reading(MetadataReaderContract):
    contents = gguf_bytes()


@pytest.mark.parametrize("made", [SoundReader, *READERS])
def test_a_broken_reader_fails_its_own_test_alone(made: type[SoundReader]) -> None:
    """A sound reader passes them all."""
    assert failures(_Reading, made()) == ({made.breaks} if made.breaks else set())


@pytest.mark.parametrize("made", [SoundCache, *CACHES])
def test_a_broken_cache_fails_its_own_test_alone(made: type[SoundCache]) -> None:
    """A sound cache passes them all."""
    assert failures(MetadataCacheContract, made, fresh=True) == ({made.breaks} if made.breaks else set())


def test_every_promise_has_a_part_that_breaks_it() -> None:
    """Every test of the contracts is failed by some broken reader or cache."""
    assert {made.breaks for made in READERS} == promises(MetadataReaderContract)
    assert {made.breaks for made in CACHES} == promises(MetadataCacheContract)

"""The reader through Corral's conformance kit."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from corral.plugins.testing import MetadataReaderContract
from corral_markov.chain import Chain
from corral_markov.reader import MarkovReader


def _small_file() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "small.markov"
        Chain.train("a b c. a b d.", order=2).write(path)
        return path.read_bytes()


class TestReader(MetadataReaderContract):
    contents = _small_file()

    @pytest.fixture
    def reader(self) -> MarkovReader:
        return MarkovReader()

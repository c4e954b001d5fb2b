"""A text, and the chain that was trained from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral_markov.chain import Chain

TEXT = """
The cat sat on the mat. The cat saw the dog and the dog saw the cat. The dog sat on the cat, and the cat ran away!
Then the dog ran to the mat. "Who sat on my mat?" said the dog. The mat said nothing, for mats say nothing.
Once upon a time a horse came to the house of the cat. The horse sat on the mat, and the mat was never seen again.
"""


@pytest.fixture
def text() -> str:
    return TEXT


@pytest.fixture
def chain_file(tmp_path: Path) -> Path:
    """A chain of two words, on disk."""
    path = tmp_path / "cats.markov"
    Chain.train(TEXT, order=2).write(path)
    return path

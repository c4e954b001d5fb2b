"""The chain: counting, asking, files."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.plugins import InvalidModelFile, InvalidRequest, RandomAccessFile
from corral_markov.chain import END, MAGIC, Chain, read_facts


def test_it_counts_what_follows() -> None:
    """Each run of words knows what came after it, the beginning and the end of a sentence too."""
    chain = Chain.train("a b c. a b d.", order=2)
    assert chain.following(["a"]) == {"b": 2}
    assert chain.following(["a", "b"]) == {"c.": 1, "d.": 1}
    assert chain.following(["c."]) == {END: 1}
    assert chain.following([]) == {"a": 2}


def test_what_was_never_said_falls_back() -> None:
    """Unknown words shorten the context, down to the beginning of a sentence; so does a smaller memory."""
    chain = Chain.train("x b c. a b d. a b d.", order=2)
    assert chain.following(["never", "b"]) == {"c.": 1, "d.": 2}
    assert chain.following(["x", "b"]) == {"c.": 1}
    assert chain.following(["x", "b"], most=1) == {"c.": 1, "d.": 2}
    assert chain.following(["never"]) == {"x": 1, "a": 2}


def test_a_file_and_back(tmp_path: Path, text: str) -> None:
    """A written file is read back; the facts come first, and no other file is left in the folder."""
    chain = Chain.train(text, order=3)
    path = tmp_path / "c.markov"
    chain.write(path)
    again = Chain.read(path)
    with RandomAccessFile(path) as source:
        assert again.facts == chain.facts == read_facts(source)
    assert again.following(["the", "cat"]) == chain.following(["the", "cat"])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("order", [0, 9, -1])
def test_orders_out_of_range(order: int) -> None:
    """Orders below 1 or above the limit are refused."""
    with pytest.raises(InvalidRequest):
        Chain.train("a b", order)


def test_a_text_without_words() -> None:
    """A text of blanks is refused."""
    with pytest.raises(InvalidRequest, match="no words"):
        Chain.train(" \n ", 2)


@pytest.mark.parametrize("damage", ["foreign", "cut", "facts", "emptied"])
def test_files_that_are_no_chains(chain_file: Path, damage: str) -> None:
    """A foreign file, a truncated one, and wrong facts raise an error that names the file."""
    whole = chain_file.read_bytes()
    damaged = {
        "foreign": b"GGUF" + whole,
        "cut": whole[:-20],
        "facts": MAGIC + b"{}\n{}",
        "emptied": MAGIC + b'{"order":1,"contexts":1,"transitions":0}\n{"":{}}',
    }
    chain_file.write_bytes(damaged[damage])
    with pytest.raises(InvalidModelFile, match=r"cats\.markov"):
        Chain.read(chain_file)

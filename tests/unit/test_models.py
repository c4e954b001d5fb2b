"""Digests, sizes for people, and what a record says about its files."""

from __future__ import annotations

import hashlib

import pytest

from corral.core.errors import InvalidDigest
from corral.core.models.digests import Digest, digest_of, mentioned_digests, parse_digest
from corral.core.models.model import FileRole, ModelFile, StoredModel, parameter_size_text
from corral.core.models.names import parse_name

_HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize("text", [f"sha256:{_HEX}", f"sha256-{_HEX}", f"sha256:{_HEX.upper()}"])
def test_digests_are_spelt_one_way(text: str) -> None:
    """A digest is the same with a colon or a dash, in upper or lower case."""
    assert parse_digest(text) == f"sha256:{_HEX}"


@pytest.mark.parametrize(
    "text", ["", _HEX, "sha256:", f"sha256:{_HEX}0", f"sha256:{_HEX[1:]}", f"md5:{_HEX}", f"sha256:{_HEX}\n", "../x"]
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    """Length, algorithm and digits all count."""
    with pytest.raises(InvalidDigest):
        parse_digest(text)


def test_a_digest_is_over_the_bytes() -> None:
    """`digest_of` is SHA-256."""
    assert digest_of(b"x") == f"sha256:{hashlib.sha256(b'x').hexdigest()}"


def test_mentioned_digests_are_found_in_any_dialect() -> None:
    """Every digest counts, wherever it occurs and however it is spelt; other hashes do not."""
    other = "f" * 64
    text = f'{{"config":{{"digest":"sha256:{_HEX.upper()}"}},"x":["sha256-{other}"],"y":"md5:{_HEX}"}}'.encode()
    assert mentioned_digests(text) == {f"sha256:{_HEX}", f"sha256:{other}"}
    assert mentioned_digests(b"\xff\x00 no manifest") == frozenset()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((0, "0"), (999, "999"), (22_000, "22K"), (134_515_008, "134.52M"), (270_000_000, "270M")),
        *((8_030_261_248, "8.0B"), (7_000_000_000, "7B"), (70_553_706_496, "70.6B"), (1_026_000_000_000, "1.0T")),
    ],
)
def test_parameter_counts_in_words(count: int, text: str) -> None:
    """Sizes are formatted as in Ollama, without trailing zeros."""
    assert parameter_size_text(count) == text


def test_the_last_weights_count() -> None:
    """Of several weights the last one is the model's, as in Ollama; without any there are none."""

    def file(role: FileRole, letter: str) -> ModelFile:
        return ModelFile(role=role, media_type="", digest=Digest("sha256:" + letter * 64), size_bytes=1)

    record = StoredModel(
        name=parse_name("m"),
        digest=digest_of(b""),
        size_bytes=2,
        modified_at=0.0,
        files=(file("weights", "1"), file("projector", "2"), file("weights", "3")),
    )
    assert record.weights == record.files[2]
    assert record.files_of("projector") == (record.files[1],)
    assert StoredModel(name=record.name, digest=record.digest, size_bytes=0, modified_at=0.0).weights is None

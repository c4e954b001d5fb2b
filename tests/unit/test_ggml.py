"""Legacy GGML files: the family is the one whose layout fits; a file that fits none is refused, with how far reading
got.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from corral.adapters.engines.ctransformers.spec import SPEC, CtransformersOptions
from corral.adapters.engines.ctransformers.tokenizer import ggml_tokenizer
from corral.adapters.formats.ggml import GgmlReader
from corral.adapters.formats.ggml.file import GgmlFile, read_ggml
from corral.core.errors import InvalidModelFile
from corral.core.models.digests import digest_of
from corral.core.models.model import ModelFile, StoredModel
from corral.core.models.names import ModelName
from corral.core.random_access import RandomAccessFile
from corral.core.requests.prompts import TextPart
from corral.plugins.testing.ggml import FAMILIES, ggml_bytes, small_vocabulary


def read_file(path: Path) -> GgmlFile:
    with RandomAccessFile(path) as source:
        return read_ggml(source)


def write(folder: Path, data: bytes) -> Path:
    path = folder / "model.bin"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_the_family_is_found(tmp_path: Path, family: str) -> None:
    """Although no file names its family, each family is distinguished from all others, and the engine accepts it."""
    path = write(tmp_path, ggml_bytes(family))
    reader = GgmlReader()
    with RandomAccessFile(path) as source:
        assert reader.recognises(source)
        metadata = reader.read(source)
        assert len(reader.tensors(source)) > 10
        assert reader.describe(source, verbose=False)["ggml.tokens"] is None
        assert reader.describe(source, verbose=True)["general.architecture"] == family
    assert (metadata.format, metadata.architecture, metadata.file_type) == ("ggml", family, "F32")
    assert (metadata.block_count, metadata.context_length, metadata.embedding_length) == (2, 64, 32)
    assert metadata.vocabulary_size == len(small_vocabulary(family))
    assert read_file(path).tokens == tuple(small_vocabulary(family))
    weights = ModelFile(role="weights", media_type="", digest=digest_of(b"w"), size_bytes=path.stat().st_size)
    name = ModelName(host="h", namespace="n", model="m", tag="t")
    record = StoredModel(name=name, digest=digest_of(b""), size_bytes=0, modified_at=0.0, files=(weights,))
    assert SPEC.match(record, metadata, CtransformersOptions()).score == 60
    assert SPEC.estimate(record, metadata, CtransformersOptions())["cpu"] > path.stat().st_size


@pytest.mark.parametrize("family", FAMILIES)
def test_truncated_anywhere(tmp_path: Path, family: str) -> None:
    """A file cut off at any point is refused, and so never reaches native code."""
    data = ggml_bytes(family)
    for size in (4, 20, 40, 500, len(data) // 2, len(data) - 4000, len(data) - 1):
        with pytest.raises(InvalidModelFile, match=r"model\.bin: not a GGML file of a known family"):
            read_file(write(tmp_path, data[:size]))


def test_a_missing_tensor(tmp_path: Path) -> None:
    """A file that ends between two tensors is refused: the native loader would compute with whatever is in memory."""
    data = ggml_bytes("mpt")
    with pytest.raises(InvalidModelFile, match=r"read as mpt.*it ends without the tensor"):
        read_file(write(tmp_path, data[: data.rindex(b"transformer.blocks.1.ffn.down_proj.weight") - 20]))


def test_absurd_numbers(tmp_path: Path) -> None:
    """Absurd numbers are refused before anything is allocated for them."""
    data = bytearray(ggml_bytes("gpt2"))
    for offset, value in ((4, 1 << 30), (12, 33), (20, -5), (24, 999)):
        bad = bytearray(data)
        bad[offset : offset + 4] = struct.pack("<i", value)
        with pytest.raises(InvalidModelFile):
            read_file(write(tmp_path, bytes(bad)))


@pytest.mark.parametrize("rotated", [0, -2, 7, 34, 1 << 30])
def test_rotations_that_no_head_has(tmp_path: Path, rotated: int) -> None:
    """Native code would divide by it, or write past the end of a head."""
    data = bytearray(ggml_bytes("gptj"))
    data[24:28] = struct.pack("<i", rotated)
    with pytest.raises(InvalidModelFile, match="of a head are rotated"):
        read_file(write(tmp_path, bytes(data)))


def test_a_wrong_type(tmp_path: Path) -> None:
    """A tensor of another type than the file's is refused."""
    data = ggml_bytes("gptj")
    place = data.index(b"transformer.wte.weight") - 12
    bad = data[:place] + struct.pack("<I", 1) + data[place + 4 :]
    with pytest.raises(InvalidModelFile, match="read as gptj"):
        read_file(write(tmp_path, bad))


def test_no_ggml_file(tmp_path: Path) -> None:
    """Other files are not recognised, and one that is not there is named."""
    with RandomAccessFile(write(tmp_path, b"GGUF" + bytes(100))) as source:
        assert not GgmlReader().recognises(source)
    with pytest.raises(InvalidModelFile, match="No such file"):
        read_file(tmp_path / "nothing")


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens(tmp_path: Path, family: str) -> None:
    """The longest tokens are taken, control tokens only in parts that ask for them, and decoding gives the text
    back."""
    tokenizer = ggml_tokenizer(read_file(write(tmp_path, ggml_bytes(family))))
    pieces = tokenizer.vocabulary().pieces
    text = "Once upon a time, the horse"
    ids = tokenizer.text_ids(text)
    assert [pieces[token_id] for token_id in ids[:4]] == [b"Once", b" upon", b" a", b" time"]
    assert tokenizer.decode(ids).decode() == text
    [meant, typed] = tokenizer.encode(
        [(TextPart(text="a<|endoftext|>", parse_special=True),), (TextPart(text="a<|endoftext|>"),)]
    )
    end = tokenizer.control_id("<|endoftext|>")
    assert end in tokenizer.vocabulary().ends
    assert meant[-1] == end
    assert end not in typed
    assert tokenizer.encode([()]) == [()]


def test_a_vocabulary_without_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that are short enough one by one also have a total limit, since they all stay in memory."""
    path = write(tmp_path, ggml_bytes("gpt2"))
    size_bytes = sum(map(len, read_file(path).tokens))
    monkeypatch.setattr("corral.adapters.formats.ggml.file._VOCABULARY_LIMIT_BYTES", size_bytes)
    read_file(path)
    monkeypatch.setattr("corral.adapters.formats.ggml.file._VOCABULARY_LIMIT_BYTES", size_bytes - 1)
    with pytest.raises(InvalidModelFile, match="the tokens take more than"):
        read_file(path)

"""The reader of safetensors: what it reads, and that no header, however hostile, gets further than an error."""

from __future__ import annotations

import json
import os
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corral.adapters.formats.safetensors.header import read_header
from corral.adapters.formats.safetensors.tensors import SafetensorsFiles
from corral.core.errors import InvalidModelFile, Unsupported
from corral.core.random_access import RandomAccessFile
from tests.checkpoints.files import Floats, write_safetensors

ROUNDS = 100_000 if os.environ.get("CORRAL_FUZZ") else 300

Entry = dict[str, Any]


def entry(start: int, end: int, shape: list[Any], dtype: Any = "F32") -> Entry:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def raw_file(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def header_file(path: Path, entries: dict[str, Any], data: bytes = b"") -> Path:
    return raw_file(path, json.dumps(entries).encode(), data)


def fault(path: Path) -> str:
    """The error, which names the file."""
    with pytest.raises(InvalidModelFile) as caught, RandomAccessFile(path) as source:
        read_header(source)
    assert path.name in caught.value.message
    assert caught.value.remedy
    return caught.value.message


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("files", [1, 2])
def test_numbers_are_read_whole_and_in_pieces(tmp_path: Path, dtype: str, files: int) -> None:
    """Each tensor has its shape and its numbers, those of BF16 as bits; scalars and empty tensors too."""
    values: dict[str, Floats] = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.full((), 1.5, np.float32),
        "c": np.zeros((0, 4), np.float32),
        "d": np.linspace(-2, 2, 35, dtype=np.float32),
    }
    paths = {}
    for number in range(files):
        held = {name: values[name] for name in list(values)[number::files]}
        paths[f"{number}"] = tmp_path / f"{number}.safetensors"
        write_safetensors(paths[f"{number}"], held, dtype)
    with SafetensorsFiles(paths) as tensors:
        assert sorted(tensors.names) == sorted(values)
        for name, value in values.items():
            found = tensors.numbers(name)
            assert (tensors.dtype(name), tensors.shape(name), found.shape) == (dtype, value.shape, value.shape)
            pieces = list(tensors.pieces(name, 4))
            assert all(len(piece) <= 4 for piece in pieces)
            assert np.array_equal(np.concatenate([np.empty(0, found.dtype), *pieces]), found.ravel())
            if dtype == "BF16":
                found = (found.astype(np.uint32) << 16).view(np.float32)
            assert np.allclose(found, value, rtol=1e-2)


@pytest.mark.parametrize(
    ("entries", "data_bytes", "text"),
    [
        ({"w": entry(0, 8, [2])}, 4, "its tensors end at byte"),
        ({"w": entry(0, 8, [2])}, 12, "has more than its tensors"),
        ({"w": entry(0, 8, [3])}, 8, "would have 12 bytes, but its data goes from 0 to 8"),
        ({"w": entry(8, 0, [2])}, 8, "its data goes from 8 to 0"),
        ({"w": entry(0, 8, [2]), "v": entry(4, 12, [2])}, 12, "'v' begins at byte 4 of the data instead of 8"),
        ({"w": entry(0, 8, [2]), "v": entry(12, 20, [2])}, 20, "it leaves a gap"),
        ({"w": entry(1 << 61, (1 << 61) + 8, [2])}, 8, "it leaves a gap"),
        ({"w": entry(0, 1 << 62, [1 << 60])}, 8, "its tensors end at byte"),
        ({"w": entry(0, 8, [1 << 62, 1 << 62, 1 << 62])}, 8, "would have"),
        ({"w": entry(0, 8, [1] * 9)}, 8, "has 9 dimensions"),
        ({"w": entry(0, 8, [2], "F33")}, 8, "the tensor 'w' has the unknown dtype 'F33'"),
        ({"w": entry(0, 8, [-2])}, 8, "the tensor 'w' is malformed"),
        ({"w": entry(0, 8, [2.5])}, 8, "the tensor 'w' is malformed"),
        ({"w": entry(0, 1 << 63, [2])}, 8, "the tensor 'w' is malformed"),
        ({"w": {"dtype": "F32", "shape": [2]}}, 8, "the tensor 'w' is malformed"),
        ({"w": 5}, 8, "the tensor 'w' is malformed"),
        ({"": entry(0, 8, [2])}, 8, "a name of 0 bytes"),
        ({"w" * 600: entry(0, 8, [2])}, 8, "a name of 600 bytes"),
        ({str(number): entry(0, 0, [0]) for number in range(70_000)}, 0, "it has 70000 tensors"),
    ],
)  # fmt: skip
def test_headers_that_lie(tmp_path: Path, entries: dict[str, Any], data_bytes: int, text: str) -> None:
    """Overlaps, gaps, sizes that do not fit, and absurd numbers are errors that name file and tensor."""
    assert text in fault(header_file(tmp_path / "x.safetensors", entries, bytes(data_bytes)))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "it has only 0 bytes"),
        (b"\x08\0\0", "it has only 3 bytes"),
        (struct.pack("<Q", 1 << 62), "its header would have 4611686018427387904 bytes"),
        (struct.pack("<Q", 200_000_000) + b"{}", "at most 100000000 are read"),
        (struct.pack("<Q", 2) + b"[]", "begins with b'[]' instead of '{'"),
        (struct.pack("<Q", 9) + b'{"w": {{}', "its header is malformed"),
        (struct.pack("<Q", 4) + b'{"\xff"', "its header is malformed"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (struct.pack("<Q", 200_000) + b'{"w":' + b"[" * 199_995, "is malformed"),
    ],
)
def test_what_is_no_safetensors_file(tmp_path: Path, content: bytes, text: str) -> None:
    """The error says what was found instead, and nothing is read that the file does not have."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert text in fault(path)


def test_a_header_as_large_as_allowed_takes_no_more_memory_than_the_file(tmp_path: Path) -> None:
    """A length in the header reserves nothing: only what the file has is read."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 99_000_000) + b"{")
    tracemalloc.start()
    try:
        fault(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_mutated_headers_are_read_or_refused(tmp_path: Path) -> None:
    """Any bytes changed, cut or repeated: tensors that lie inside of the file, or an error of Corral. Nothing else."""
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a.b": np.ones((3, 4), np.float32), "c": np.zeros(5, np.float32)})
    original = path.read_bytes()
    chance = random.Random(1)
    refused = 0
    for _ in range(ROUNDS):
        data = bytearray(original)
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(data) - 1)
            kind = chance.randrange(4)
            if kind == 0:
                data[place] = chance.randrange(256)
            elif kind == 1:
                data[place:] = data[place + chance.randrange(9) :]
            elif kind == 2:
                data[place:place] = data[place : place + chance.randrange(9)]
            else:
                data[place] = chance.choice(b'0123456789{}[]",:-')
            if len(data) < 2:
                break
        path.write_bytes(data)
        try:
            with SafetensorsFiles({"x": path}) as tensors:
                for name in tensors.names:
                    tensors.numbers(name)
        except (InvalidModelFile, Unsupported):
            refused += 1
    assert refused > ROUNDS // 2


@pytest.mark.parametrize("dtype", ["F64", "I64", "I8", "BOOL", "F8_E4M3"])
def test_other_dtypes_are_refused_by_name(tmp_path: Path, dtype: str) -> None:
    """A tensor of another dtype does no harm until it is asked for; then the error names it, its file and its dtype."""
    size_bytes = {"F64": 8, "I64": 8}.get(dtype, 1)
    path = header_file(tmp_path / "x", {"w": entry(0, size_bytes, [1], dtype)}, bytes(size_bytes))
    with SafetensorsFiles({"x.safetensors": path}) as tensors:
        assert tensors.names == ("w",)
        with pytest.raises(Unsupported, match=f"x.safetensors: the tensor 'w' has the dtype {dtype}"):
            tensors.numbers("w")


def test_a_file_that_shrinks_is_an_error(tmp_path: Path) -> None:
    """Reading never returns what the file does not have."""
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"w": np.ones(100, np.float32)})
    with SafetensorsFiles({path.name: path}) as tensors:
        os.truncate(path, path.stat().st_size - 4)
        with pytest.raises(InvalidModelFile, match="the file ends within the tensor 'w'"):
            tensors.numbers("w")
        with pytest.raises(InvalidModelFile, match="has no tensor 'nothing'"):
            tensors.numbers("nothing")


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ({"weight_map": {"w": "1", "v": "2"}}, None),
        ({"weight_map": {"w": "1", "v": "3"}}, "the tensor 'v' is in 3, which is missing"),
        ({"weight_map": {"w": "2", "v": "2"}}, "the tensor 'w' is not in 2"),
        ({"weight_map": {"u": "1"}}, "the tensor 'u' is not in 1"),
        ({"weight_map": {"u": 1}}, "index.json is malformed"),
        ({"weights": {}}, "index.json is malformed"),
    ],
)
def test_an_index_must_match_its_files(tmp_path: Path, index: dict[str, Any], text: str | None) -> None:
    """It says where each tensor is; if that is not so, files are missing or mixed up."""
    paths = {}
    for file, name in (("1", "w"), ("2", "v")):
        paths[file] = tmp_path / file
        write_safetensors(paths[file], {name: np.ones(2, np.float32)})
    place = tmp_path / "index.json"
    place.write_text(json.dumps(index))
    if text is None:
        with SafetensorsFiles(paths, place) as tensors:
            assert tensors.names == ("w", "v")
    else:
        with pytest.raises(InvalidModelFile, match=text):
            SafetensorsFiles(paths, place)


def test_a_tensor_in_two_files_is_an_error(tmp_path: Path) -> None:
    """Nobody could say which of them is meant."""
    for name in ("1", "2"):
        write_safetensors(tmp_path / name, {"w": np.ones(2, np.float32)})
    with pytest.raises(InvalidModelFile, match="2: the tensor 'w' is in 1 as well"):
        SafetensorsFiles({name: tmp_path / name for name in ("1", "2")})

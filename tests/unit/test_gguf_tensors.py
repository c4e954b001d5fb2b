"""Weights of GGUF files as NumPy arrays, checked against blocks made by hand and ggml's own code."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from corral.adapters.formats.gguf.dequantize import dequantize, four_bit_groups
from corral.adapters.formats.gguf.tables import DEQUANTIZED_TYPES, FOUR_BIT_TYPES, TENSOR_TYPES
from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.core.errors import InvalidModelFile, Unsupported
from corral.plugins.testing.gguf import SMALL_MODEL, TensorEntry, gguf_bytes

BY_NAME = {kind.name: (number, kind) for number, kind in TENSOR_TYPES.items()}


def blocks(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8).reshape(1, -1)


def test_q4_0_is_a_step_times_a_signed_level() -> None:
    """A Q4_0 block gives d * (q - 8), the low halves of its bytes first."""
    data = struct.pack("<e", 0.5) + bytes([0x0F] * 8 + [0x80] * 8)
    assert dequantize("Q4_0", blocks(data)).tolist() == [[3.5] * 8 + [-4.0] * 8 + [-4.0] * 8 + [0.0] * 8]


def test_q4_1_is_a_step_times_a_level_over_a_minimum() -> None:
    """A Q4_1 block gives d * q + m."""
    data = struct.pack("<ee", 0.25, -1.0) + bytes([0xF0] * 16)
    assert dequantize("Q4_1", blocks(data)).tolist() == [[-1.0] * 16 + [2.75] * 16]


def test_q5_takes_the_fifth_bits_from_a_word() -> None:
    """Q5_0 and Q5_1 blocks add 16 to the levels whose bit is set in the word before them."""
    word = struct.pack("<I", 0x80000001)
    first = dequantize("Q5_0", blocks(struct.pack("<e", 1.0) + word + bytes(16)))
    assert first.tolist() == [[0.0] + [-16.0] * 30 + [0.0]]
    second = dequantize("Q5_1", blocks(struct.pack("<ee", 1.0, 2.0) + word + bytes(16)))
    assert second.tolist() == [[18.0] + [2.0] * 30 + [18.0]]


def test_q8_0_and_plain_floats() -> None:
    """Q8_0 gives d * q of signed bytes; F32, F16 and BF16 are the numbers themselves."""
    levels = list(range(-16, 16))
    data = struct.pack("<e32b", 0.5, *levels)
    assert dequantize("Q8_0", blocks(data)).tolist() == [[level / 2 for level in levels]]
    assert dequantize("F32", blocks(struct.pack("<f", 1.5))).tolist() == [[1.5]]
    assert dequantize("F16", blocks(struct.pack("<e", -1.5))).tolist() == [[-1.5]]
    assert dequantize("BF16", blocks(struct.pack("<f", -2.5)[2:])).tolist() == [[-2.5]]


def test_k_blocks_of_one_level_have_the_value_their_formula_says() -> None:
    """Q4_K and Q6_K blocks whose steps, minima and levels are all alike give that one value everywhere."""
    scales = bytes([2] * 4 + [3] * 4 + [3 << 4 | 2] * 4)  # every step is 2, every minimum 3
    q4_k = struct.pack("<ee", 0.5, 0.25) + scales + bytes([0x55] * 128)
    assert set(dequantize("Q4_K", blocks(q4_k)).ravel().tolist()) == {0.5 * 2 * 5 - 0.25 * 3}
    q6_k = bytes([0x11] * 128 + [0xAA] * 64) + struct.pack("<16b", *[-3] * 16) + struct.pack("<e", 0.5)
    assert set(dequantize("Q6_K", blocks(q6_k)).ravel().tolist()) == {0.5 * -3 * ((1 | 2 << 4) - 32)}


def test_a_type_nobody_knows_is_named() -> None:
    """A type without a formula here is refused by name, with a list of those that have one."""
    with pytest.raises(Unsupported, match=r"type IQ2_XS .*Q4_K"):
        dequantize("IQ2_XS", np.zeros((1, 74), dtype=np.uint8))


def test_what_is_said_to_be_readable_is() -> None:
    """Exactly those tensor types that specs call readable have a formula."""
    for name, (_, kind) in BY_NAME.items():
        zeros = np.zeros((1, kind.block_bytes), dtype=np.uint8)
        assert (four_bit_groups(name, zeros) is not None) == (name in FOUR_BIT_TYPES)
        if name in DEQUANTIZED_TYPES:
            assert dequantize(name, zeros).shape == (1, kind.block)
        else:
            with pytest.raises(Unsupported, match=name):
                dequantize(name, zeros)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], GgufTensors]:
    def open_bytes(data: bytes) -> GgufTensors:
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        return GgufTensors(path)

    return open_bytes


def test_a_file_says_what_it_holds_and_gives_ranges_of_rows(opened: Callable[[bytes], GgufTensors]) -> None:
    """Names are in the file's order, shapes in NumPy's; rows can be read one by one or all together."""
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    bias = np.ones(4, dtype=np.float32)
    entries = (TensorEntry("a", (4, 3), data=matrix.tobytes()), TensorEntry("b", (4,), data=bias.tobytes()))
    with opened(gguf_bytes(SMALL_MODEL, entries)) as tensors:
        assert tensors.names == ("a", "b")
        assert tensors.shape("a") == (3, 4)
        assert tensors.type("a") == "F32"
        assert np.array_equal(tensors.dequantized("a"), matrix)
        assert np.array_equal(tensors.rows("a", 1, 2), matrix[1:2])
        assert np.array_equal(tensors.rows("a", 2, 9), matrix[2:])
        assert tensors.dequantized("b").shape == (4,)
        assert tensors.pairs["llama.block_count"] == 2
        assert tensors.array("tokenizer.ggml.tokens") == ["<unk>", "<s>", "</s>", "a"]
        assert tensors.array("tokenizer.ggml.merges") is None


def test_a_missing_tensor_and_a_foreign_file_are_named(opened: Callable[[bytes], GgufTensors], tmp_path: Path) -> None:
    """A missing tensor, a file that is not GGUF and a missing file are reported as such."""
    with opened(gguf_bytes()) as tensors, pytest.raises(InvalidModelFile, match=r"no tensor 'output.weight'"):
        tensors.dequantized("output.weight")
    with pytest.raises(InvalidModelFile, match="not a GGUF file"):
        opened(b"something else")
    with pytest.raises(InvalidModelFile, match="No such file"):
        GgufTensors(tmp_path / "absent.gguf")


def test_a_file_that_shrinks_while_it_is_read_is_an_error_and_no_crash(
    opened: Callable[[bytes], GgufTensors], tmp_path: Path
) -> None:
    """A file cut short after it was opened gives a clear error."""
    with opened(gguf_bytes(SMALL_MODEL, [TensorEntry("a", (32,))])) as tensors:
        os.truncate(tmp_path / "model.gguf", (tmp_path / "model.gguf").stat().st_size - 64)
        with pytest.raises(InvalidModelFile, match=r"'a'.*shrank"):
            tensors.dequantized("a")


@pytest.fixture(scope="module")
def ggml() -> Any:
    """ggml, llama.cpp's tensor library."""
    llama_cpp = pytest.importorskip("llama_cpp")
    folder = Path(llama_cpp.__file__).parent / "lib"
    library = ctypes.CDLL(str(next(folder.glob("*ggml-base*"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library


@pytest.mark.native
@pytest.mark.parametrize("name", sorted(DEQUANTIZED_TYPES - {"F32", "F16", "BF16"}))
def test_dequantized_as_ggml_does(ggml: Any, name: str) -> None:
    """Random rows quantized by ggml are dequantized by our code to the same bits as by ggml's."""
    number, kind = BY_NAME[name]
    rows, columns = 8, 1024
    source = np.random.default_rng(7).standard_normal((rows, columns)).astype(np.float32)
    stored = np.empty((rows, columns // kind.block, kind.block_bytes), dtype=np.uint8)
    pointer = ctypes.c_void_p
    size_bytes = ggml.ggml_quantize_chunk(
        number, pointer(source.ctypes.data), pointer(stored.ctypes.data), *map(ctypes.c_int64, (0, rows, columns)), None
    )
    assert size_bytes == stored.nbytes
    expected = np.empty_like(source)
    function = getattr(ggml, f"dequantize_row_{name.lower().replace('_k', '_K')}")
    function(pointer(stored.ctypes.data), pointer(expected.ctypes.data), ctypes.c_int64(source.size))
    found = dequantize(name, stored.reshape(-1, kind.block_bytes)).reshape(source.shape)
    assert np.array_equal(found, expected)


@pytest.mark.native
def test_a_models_file_is_close_to_its_other_encodings(smollm2: Path, requantized: Callable[[str], Path]) -> None:
    """SmolLM2 re-encoded by llama.cpp holds nearly the same weights, read by us, in every encoding."""
    with GgufTensors(smollm2) as original:
        for name, least in (("F16", 0.9999), ("Q8_0", 0.9999), ("Q4_K_M", 0.99)):
            with GgufTensors(requantized(name)) as other:
                for tensor in ("blk.0.attn_q.weight", "blk.3.ffn_down.weight", "output_norm.weight"):
                    a, b = original.dequantized(tensor).ravel(), other.dequantized(tensor).ravel()
                    assert a @ b / np.sqrt((a @ a) * (b @ b)) > least, (name, tensor)

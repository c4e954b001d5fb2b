"""The GGUF header reader: every field it fills, and every way a file can be broken."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.formats.gguf import GgufReader
from corral.core.errors import InvalidModelFile
from corral.core.models.model import ModelMetadata
from corral.core.random_access import RandomAccessFile
from corral.plugins.testing.gguf import SMALL_MODEL, Tagged, TensorEntry, gguf_bytes

Write = Callable[[bytes], Path]


def read_metadata(path: Path) -> ModelMetadata:
    with RandomAccessFile(path) as source:
        return GgufReader().read(source)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(data: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        return path

    return write


def test_every_field_is_filled(write: Write) -> None:
    """A complete header gives architecture, sizes, special tokens and template."""
    tensors = (
        TensorEntry("token_embd.weight", (32, 4), 3, 80),
        TensorEntry("blk.0.attn_q.weight", (32, 32), 3, 640),
        TensorEntry("output_norm.weight", (32,), 0, 128),
    )
    found = read_metadata(write(gguf_bytes(SMALL_MODEL, tensors)))
    assert (found.format, found.architecture, found.file_type, found.name) == ("gguf", "llama", "Q4_1", "Small")
    assert found.parameter_count == 128 + 1024 + 32
    assert found.tensor_types == {"Q4_1": 720, "F32": 128}
    assert found.tensor_bytes == 848
    assert (found.block_count, found.context_length, found.embedding_length) == (2, 256, 32)
    assert found.vocabulary_size == 4
    assert found.kv_bytes_per_token == 2 * 2 * (8 + 8) * 2
    assert (found.bos_text, found.eos_text) == ("<s>", "</s>")
    assert found.chat_template == SMALL_MODEL["tokenizer.chat_template"]
    assert found.sliding_window is None
    assert found.pooling is None


def test_a_separate_template_for_tools_is_read(write: Write) -> None:
    """It has a key of its own, and is none of the values to show."""
    key = "tokenizer.chat_template.tool_use"
    found = read_metadata(write(gguf_bytes({**SMALL_MODEL, key: "{{ tools }}"})))
    assert (found.chat_template, found.tools_template) == (SMALL_MODEL["tokenizer.chat_template"], "{{ tools }}")
    assert key not in found.keys
    assert read_metadata(write(gguf_bytes())).tools_template is None


def test_keys_hold_numbers_and_texts_but_no_arrays(write: Write) -> None:
    """`keys` has the scalars with their own types; arrays and the chat template are left out."""
    keys = read_metadata(write(gguf_bytes())).keys
    assert keys["llama.attention.layer_norm_rms_epsilon"] == 1e-05
    assert keys["llama.block_count"] == 2
    assert "tokenizer.ggml.tokens" not in keys
    assert "tokenizer.chat_template" not in keys


@pytest.mark.parametrize("version", [2, 3])
def test_versions_2_and_3_are_read(write: Write, version: int) -> None:
    """Big-endian and little-endian files give the same header."""
    assert read_metadata(write(gguf_bytes(version=version))).architecture == "llama"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"llama.attention.head_count_kv": [2, 1]}, (2 + 1) * 16 * 2),
        ({"llama.attention.head_count_kv": [2, 0]}, 2 * 16 * 2),
        ({"llama.attention.head_count": [4, 2], "llama.attention.head_count_kv": [2, 1]}, (2 + 1) * 16 * 2),
        ({"llama.attention.key_length": 16, "llama.attention.value_length": 4}, 2 * 2 * 20 * 2),
        ({"llama.attention.head_count_kv": None}, 2 * 4 * 16 * 2),
        ({"llama.attention.head_count": None, "llama.attention.head_count_kv": None}, None),
        ({"llama.block_count": None}, None),
        ({"llama.block_count": 5000}, None),
        ({"llama.embedding_length": "many"}, None),
    ],
)
def test_kv_cache_size(write: Write, changes: dict[str, Any], expected: int | None) -> None:
    """Per-layer head counts and explicit lengths are used; if a needed number is missing, the result is None."""
    pairs = {key: value for key, value in {**SMALL_MODEL, **changes}.items() if value is not None}
    assert read_metadata(write(gguf_bytes(pairs))).kv_bytes_per_token == expected


@pytest.mark.parametrize(("number", "name"), [(0, "none"), (1, "mean"), (2, "cls"), (3, "last"), (4, "rank"), (9, "9")])
def test_pooling_and_sliding_window(write: Write, number: int, name: str) -> None:
    """Pooling has llama.cpp's names; an unknown number stays a number."""
    pairs = {**SMALL_MODEL, "llama.pooling_type": number, "llama.attention.sliding_window": 512}
    found = read_metadata(write(gguf_bytes(pairs)))
    assert (found.pooling, found.sliding_window) == (name, 512)


def test_a_classifier_makes_a_reranker(write: Write) -> None:
    """An encoder that does not say how it pools is a cross-encoder if it has a classifier; what it says is believed."""
    head = [TensorEntry("token_embd.weight"), TensorEntry("cls.output.weight")]
    encoder = {**SMALL_MODEL, "llama.attention.causal": False}
    assert read_metadata(write(gguf_bytes(encoder, head))).pooling == "rank"
    assert read_metadata(write(gguf_bytes({**encoder, "llama.pooling_type": 2}, head))).pooling == "cls"
    assert read_metadata(write(gguf_bytes(SMALL_MODEL, head))).pooling is None


def test_without_a_file_type_the_biggest_tensor_type_speaks(write: Write) -> None:
    """If the file type is missing or unknown, the type that covers most bytes is used."""
    tensors = (TensorEntry("a", (32,), 8, 34), TensorEntry("b", (4,), 0, 16))
    for file_type in ({}, {"general.file_type": 999}):
        pairs = {"general.architecture": "llama", **file_type}
        assert read_metadata(write(gguf_bytes(pairs, tensors))).file_type == "Q8_0"


def test_every_value_type_is_read(write: Write) -> None:
    """All scalar types are read back as written; a special id outside the vocabulary has no text."""
    values: dict[str, Tagged] = {
        "u8": Tagged(0, 255),
        "i8": Tagged(1, -128),
        "u16": Tagged(2, 65535),
        "i16": Tagged(3, -32768),
        "i32": Tagged(5, -(2**31)),
        "yes": Tagged(7, True),
        "no": Tagged(7, False),
        "u64": Tagged(10, 2**64 - 1),
        "i64": Tagged(11, -(2**63)),
        "f64": Tagged(12, 0.1),
        "f32": Tagged(6, 3.4028235e38),
        "inf": Tagged(6, float("inf")),
        "tokenizer.ggml.bos_token_id": Tagged(4, 4000),
    }
    found = read_metadata(write(gguf_bytes({**SMALL_MODEL, **values})))
    assert {key: found.keys[key] for key in values} == {key: tagged.value for key, tagged in values.items()}
    assert found.bos_text == ""


def test_describe_shows_arrays_when_asked(write: Write) -> None:
    """Arrays are None (empty ones []), and complete when verbose; the chat template is always left out."""
    path = write(gguf_bytes({**SMALL_MODEL, "empty": [], "scores": [0.1, 1e-5], "flags": [True, False]}))
    with RandomAccessFile(path) as source:
        brief = GgufReader().describe(source, verbose=False)
        verbose = GgufReader().describe(source, verbose=True)
    assert (brief["tokenizer.ggml.tokens"], brief["scores"], brief["empty"]) == (None, None, [])
    assert brief["general.architecture"] == "llama"
    assert brief["general.parameter_count"] == 32
    assert brief["general.name"] == SMALL_MODEL["general.name"]
    assert "tokenizer.chat_template" not in brief
    assert verbose["tokenizer.ggml.tokens"] == SMALL_MODEL["tokenizer.ggml.tokens"]
    assert (verbose["scores"], verbose["flags"], verbose["empty"]) == ([0.1, 1e-5], [True, False], [])
    assert list(brief) == list(verbose)


def test_tensors_are_listed_in_file_order(write: Write) -> None:
    """Name, type and shape of each."""
    tensors = (TensorEntry("b", (32, 2), 8, 68), TensorEntry("a", (3, 1, 1, 2), 0, 24))
    with RandomAccessFile(write(gguf_bytes(SMALL_MODEL, tensors))) as source:
        assert GgufReader().tensors(source) == [("b", "Q8_0", (32, 2)), ("a", "F32", (3, 1, 1, 2))]


def test_recognises_by_content(write: Write) -> None:
    """The magic decides; a short or foreign file is not GGUF."""
    for data, expected in ((gguf_bytes(), True), (b"GGU", False), (b"some text", False), (b"", False)):
        with RandomAccessFile(write(data)) as source:
            assert GgufReader().recognises(source) is expected


def test_a_long_vocabulary_is_skipped_across_windows(write: Write) -> None:
    """Strings longer than the reader's window, before and after short ones, are read correctly."""
    tokens = ["x" * 3_000_000, *(f"t{number}" for number in range(200_000)), "y" * 1_500_000, "last"]
    pairs = {**SMALL_MODEL, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.eos_token_id": len(tokens) - 1, "z": 7}
    found = read_metadata(write(gguf_bytes(pairs)))
    assert (found.vocabulary_size, found.bos_text, found.eos_text) == (len(tokens), "t0", "last")
    assert found.keys["z"] == 7


def test_a_header_of_smollm2s_size_takes_a_tenth_of_a_second_at_most(write: Write) -> None:
    """49,152 tokens with as many scores, types and merges are skipped within 100 ms in the best of five tries."""
    tokens = [f"token{number}" for number in range(49_152)]
    arrays = {"tokenizer.ggml.tokens": tokens, "merges": tokens, "types": list(range(49_152))}
    path = write(gguf_bytes({**SMALL_MODEL, **arrays}))
    times_s = []
    for _ in range(5):
        before_s = time.perf_counter()
        read_metadata(path)
        times_s.append(time.perf_counter() - before_s)
    assert min(times_s) < 0.1


def test_a_sparse_file_of_a_terabyte_costs_nothing(tmp_path: Path) -> None:
    """Only the header is read, however big the tensors are."""
    size_bytes = 1 << 40
    header = gguf_bytes(SMALL_MODEL, (TensorEntry("w", (size_bytes // 4,), 0, 0),))
    path = tmp_path / "sparse.gguf"
    path.write_bytes(header)
    os.truncate(path, len(header) + size_bytes)
    assert read_metadata(path).tensor_bytes == size_bytes


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "empty"),
        (b"Once upon a time there was a model", "text beginning with 'Once upon"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
        (b"tjgg" + bytes(40), "GGJT"),
        (b"PK\x03\x04" + bytes(40), "50 4b 03 04"),
        (gguf_bytes(version=1), "version 1 is too old"),
        (gguf_bytes(version=4), "version 4 is too new"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0) + bytes(64), "tensors cannot fit"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63) + bytes(64), "pairs cannot fit"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62) + bytes(64), "a key claims"),
        (gguf_bytes({"general.name": "no architecture"}), "general.architecture"),
        (gguf_bytes({"general.architecture": 7}), "general.architecture"),
        (gguf_bytes({**SMALL_MODEL, "general.alignment": 0}), "alignment"),
        (gguf_bytes({**SMALL_MODEL, "general.alignment": 33}), "alignment"),
        (gguf_bytes({**SMALL_MODEL, "general.alignment": "32"}), "alignment"),
        (gguf_bytes(SMALL_MODEL, (TensorEntry("odd", (33,), 3, 32),)), "needs a multiple of 32"),
        (gguf_bytes(SMALL_MODEL, (TensorEntry("new", (32,), 99, 32),)), "unknown type 99"),
        (gguf_bytes(SMALL_MODEL, (TensorEntry("gone", (32,), 4, 32),)), "unknown type 4"),
        (gguf_bytes(SMALL_MODEL, (TensorEntry("flat", (1, 1, 1, 1, 1), 0, 4),)), "5 dimensions"),
        (gguf_bytes(SMALL_MODEL, (TensorEntry("huge", (2**62, 2**62), 0, 128),)), "truncated"),
        (gguf_bytes(SMALL_MODEL, (TensorEntry("cut", (4096,), 0, 128),)), "'cut' ends at byte"),
    ],
)
def test_broken_files_are_told_apart(write: Write, data: bytes, complaint: str) -> None:
    """The message says what is wrong and in which file; only InvalidModelFile is raised."""
    path = write(data)
    with pytest.raises(InvalidModelFile, match=complaint) as caught:
        read_metadata(path)
    assert str(path) in str(caught.value)


def test_absurd_values_are_refused(write: Write) -> None:
    """Unknown types, nested arrays, counts and lengths past the file's end, and duplicate keys are refused."""
    key = struct.pack("<Q", 1) + b"k"
    bodies = {
        "unknown type 77": struct.pack("<I", 77) + bytes(16),
        "holds the unknown type 9": struct.pack("<IIQ", 9, 9, 1) + bytes(16),
        "values in 'k' cannot fit": struct.pack("<IIQ", 9, 4, 2**61) + bytes(16),
        "strings in 'k' cannot fit": struct.pack("<IIQ", 9, 8, 2**61) + bytes(16),
        "claims to be": struct.pack("<IQ", 8, 2**63) + bytes(16),
        "truncated": struct.pack("<IIQQ", 9, 8, 1, 2**63) + bytes(16),
        "occurs twice": struct.pack("<II", 4, 1) + key + struct.pack("<II", 4, 2),
    }
    for complaint, body in bodies.items():
        count = 2 if complaint == "occurs twice" else 1
        path = write(struct.pack("<4sIQQ", b"GGUF", 3, 0, count) + key + body)
        with pytest.raises(InvalidModelFile, match=complaint):
            read_metadata(path)


def test_a_file_cut_anywhere_is_refused(write: Write) -> None:
    """Cut at every single byte, a file is InvalidModelFile and never anything else."""
    whole = gguf_bytes({**SMALL_MODEL, "numbers": [1, 2, 3], "flag": True})
    reader = GgufReader()
    for length in range(len(whole)):
        with RandomAccessFile(write(whole[:length])) as source:
            for read in (reader.read, reader.tensors, lambda source: reader.describe(source, verbose=True)):
                with pytest.raises(InvalidModelFile):
                    read(source)
    assert read_metadata(write(whole)).architecture == "llama"


def test_noise_never_raises_anything_else(write: Write) -> None:
    """Headers with bytes flipped at random are read, or refused as InvalidModelFile."""
    whole = gguf_bytes({**SMALL_MODEL, "numbers": [1, 2, 3]})
    state = 1
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(3):
            state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
            damaged[(state >> 33) % len(damaged)] = state >> 20 & 0xFF
        with RandomAccessFile(write(bytes(damaged))) as source, suppress(InvalidModelFile):
            GgufReader().read(source)
            GgufReader().describe(source, verbose=True)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    """A missing file is InvalidModelFile with its path."""
    with pytest.raises(InvalidModelFile, match=r"absent\.gguf"):
        read_metadata(tmp_path / "absent.gguf")


@pytest.mark.parametrize(
    ("more", "ids"),
    [
        ({}, None),
        ({"tokenizer.ggml.tokens": ["a", "<|fim_prefix|>", "<|fim_middle|>", "b", "<|fim_suffix|>"]}, (1, 4, 2)),
        ({"tokenizer.ggml.tokens": ["<PRE>", "<SUF>"]}, None),
        ({"tokenizer.ggml.tokens": ["<fim_prefix>", "<fim_suffix>", "x" + "\x0c" + 7 * "\0" + "<fim_middle>"]}, None),
        ({f"tokenizer.ggml.fim_{name}_token_id": place for place, name in enumerate(("pre", "suf", "mid"))}, (0, 1, 2)),
        ({f"tokenizer.ggml.{name}_token_id": at for at, name in enumerate(("prefix", "suffix", "middle"))}, (0, 1, 2)),
        ({f"tokenizer.ggml.fim_{name}_token_id": 99 for name in ("pre", "suf", "mid")}, None),
    ],
)  # fmt: skip
def test_tokens_for_filling_in_the_middle_are_found(
    write: Write, more: dict[str, Any], ids: tuple[int, int, int] | None
) -> None:
    """They are named by the header, by new keys or old ones, or known by their spelling as whole tokens."""
    pairs = {**SMALL_MODEL, **more}
    assert read_metadata(write(gguf_bytes(pairs))).fim_ids == ids


@pytest.mark.parametrize(
    ("more", "ids"),
    [
        ({"tokenizer.ggml.tokens": ["<PRE>", "<SUF>", "<MID>"]}, None),
        ({"tokenizer.ggml.tokens": ["<PRE>", "<SUF>", "<MID>", "<|file_sep|>", "<|repo_name|>"]}, (4, 3)),
        ({"tokenizer.ggml.tokens": ["<|file_sep|>", "<|repo_name|>"]}, None),
        (
            {
                "tokenizer.ggml.tokens": ["<PRE>", "<SUF>", "<MID>", "r", "s"],
                "tokenizer.ggml.fim_rep_token_id": 3,
                "tokenizer.ggml.fim_sep_token_id": 4,
            },
            (3, 4),
        ),
    ],
)
def test_tokens_of_repositories_are_found(write: Write, more: dict[str, Any], ids: tuple[int, int] | None) -> None:
    """Only of models that fill in."""
    assert read_metadata(write(gguf_bytes({**SMALL_MODEL, **more}))).repository_ids == ids

"""Tokenizers made from GGUF vocabularies: the same tokens of the same text as llama.cpp's own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.converters.onnx.tokenizer import tokenizer_config, tokenizer_json
from corral.adapters.converters.onnx.vocabulary import read_vocabulary
from corral.adapters.engines.ctransformers.tokenizer import gguf_tokenizer
from corral.adapters.formats.gguf.pretokenizers import PRE_TOKENIZERS
from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.adapters.formats.gguf.vocabulary import read_vocabulary as read_gguf_vocabulary
from corral.core.errors import InvalidModelFile
from corral.plugins.testing.gguf import Tagged, gguf_bytes

tokenizers = pytest.importorskip("tokenizers")

PROSE = """It was the best of times, it was the worst of times. They're here; I'LL say it's 1,234,567.89 % more.
def f(x: int) -> None:\n    return [i ** 2 for i in range(10_000)]  # tabs\tand   spaces\r\n\r\n\n   indented
Größe, façade, naïve, Ångström; Ελληνικά και русский текст; 日本語の文章と漢字、ひらがな。한국어 문장입니다.
العربية والأرقام ١٢٣; עברית; हिन्दी में लिखा; ไทย; emoji 😀👨‍👩‍👧‍👦🇩🇪❤️ and math ∑∫√≠ ½ ² ① Ⅷ.
"""
ODD = (
    "",
    " ",
    "    ",
    "\n\n\n",
    "\t \t",
    " a",
    "a ",
    "don't DON'T 'tis",
    "\u00a0\u2003\u3000\u200b\u2028",
    "\x00\x01\x1c\x7f\x85",
    "e\u0301 a\u0308",
    "x=1;if(x){y++;}//...!!!??",
    "___--==++$$$^^^~~~|||<<<>>>",
    "12345678901234567890",
    "<|im_start|>user\nhi<|im_end|>",
    "<|im_start|><|im_start|>  <|im_end|>\n",
    "ab<|im_end|>cd <|endoftext|>",
)


def texts() -> Iterator[str]:
    """Prose of many scripts, odd little texts, and random ones: some 20,000 characters."""
    yield PROSE
    yield from PROSE.splitlines()
    yield from ODD
    source = random.Random(5)
    usual = [chr(code) for code in range(32, 127)] * 4 + [" ", "\n", "'"] * 30
    alphabet = usual + [chr(code) for code in (*range(0xA1, 0x250), *range(0x370, 0x450), *range(0x4E00, 0x4E80))]
    for _ in range(100):
        yield "".join(source.choices(alphabet, k=180))


def vocabulary_file(path: Path, pairs: Mapping[str, Any]) -> Path:
    path.write_bytes(gguf_bytes({"general.architecture": "llama", **pairs}, ()))
    return path


def made(path: Path) -> Any:
    """The tokenizer built from a file's vocabulary."""
    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(read_vocabulary(path))))


@contextmanager
def llama_cpp_tokenizer(path: Path) -> Iterator[Callable[..., list[int]]]:
    """llama.cpp's own ``tokenize`` over a file's vocabulary, without loading its weights."""
    llama_cpp = pytest.importorskip("llama_cpp")
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert model
    vocabulary = llama_cpp.llama_model_get_vocab(model)

    def tokenize(text: str, *, parse_special: bool, add_special: bool = False) -> list[int]:
        data = text.encode()
        room = (llama_cpp.llama_token * (len(data) + 16))()
        count = llama_cpp.llama_tokenize(vocabulary, data, len(data), room, len(room), add_special, parse_special)
        assert count >= 0
        return list(room[:count])

    try:
        yield tokenize
    finally:
        llama_cpp.llama_model_free(model)


def assert_same(path: Path, samples: Sequence[str]) -> None:
    tokenizer = made(path)
    with llama_cpp_tokenizer(path) as tokenize:
        for parse_special in (True, False):
            tokenizer.encode_special_tokens = not parse_special
            for text in samples:
                expected = tokenize(text, parse_special=parse_special)
                assert tokenizer.encode(text, add_special_tokens=False).ids == expected, (parse_special, text)
        tokenizer.encode_special_tokens = False
        assert tokenizer.encode("ab").ids == tokenize("ab", parse_special=True, add_special=True)


@pytest.fixture(scope="module")
def smollm2_pairs(smollm2: Path) -> dict[str, Any]:
    """The key-values of part of SmolLM2's tokenizer: its first tokens and the merges that make them."""
    kept = {"tokens": 6000, "token_type": 6000, "merges": 5700}
    with GgufTensors(smollm2) as tensors:
        found = {key: value for key, value in tensors.pairs.items() if key.startswith("tokenizer.ggml.")}
        for key, count in kept.items():
            name = f"tokenizer.ggml.{key}"
            found[name] = (tensors.array(name) or [])[:count]
    types = found["tokenizer.ggml.token_type"]
    return {**found, "tokenizer.ggml.token_type": Tagged(9, [Tagged(5, number) for number in types])}


@pytest.mark.native
def test_smollm2_as_llama_cpp(smollm2: Path) -> None:
    """Every text gets llama.cpp's tokens, with control tokens parsed or taken as text."""
    assert_same(smollm2, list(texts()))


@pytest.mark.native
@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_every_pre_tokenizer_cuts_as_llama_cpp(pre: str, smollm2_pairs: dict[str, Any], tmp_path: Path) -> None:
    """With each pre-tokenizer, over the same tokens and merges, texts get llama.cpp's tokens."""
    pairs = {**smollm2_pairs, "tokenizer.ggml.pre": pre}
    del pairs["tokenizer.ggml.add_bos_token"]  # so that the pre-tokenizer's own habit shows
    assert_same(vocabulary_file(tmp_path / "vocabulary.gguf", pairs), list(texts()))


def sentence_pieces(*, prefix: bool = True) -> dict[str, Any]:
    """A SentencePiece vocabulary: bytes, the characters of some prose, and its frequent pieces, by score."""
    counts: dict[str, int] = {}
    text = PROSE.replace(" ", "▁") * 2
    for length in range(2, 9):
        for start in range(len(text) - length):
            piece = text[start : start + length]
            if "\n" not in piece and "\r" not in piece and "\t" not in piece:
                counts[piece] = counts.get(piece, 0) + length
    frequent = sorted(counts, key=lambda piece: (-counts[piece], piece))[:900]
    characters = sorted({*text, *"abcdefghijklmnopqrstuvwxyz"} - {"\n", "\r", "\t", "漢", "😀"})
    byte_pieces = [f"<0x{value:02X}>" for value in range(256)]
    pieces = ["<unk>", "<s>", "</s>", *byte_pieces, *frequent, *characters, "<|im_start|>", "<|im_end|>"]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(frequent) + len(characters)), 3, 3]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(frequent))] + [-1e4] * (len(characters) + 2)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": Tagged(9, [Tagged(5, kind) for kind in types]),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": prefix,
    }


@pytest.mark.native
@pytest.mark.parametrize("prefix", [True, False])
def test_sentence_pieces_as_llama_cpp(prefix: bool, tmp_path: Path) -> None:
    """A SentencePiece vocabulary makes llama.cpp's tokens, bytes and the leading space included."""
    samples = [text for text in texts() if "\x00" not in text]
    assert_same(vocabulary_file(tmp_path / "vocabulary.gguf", sentence_pieces(prefix=prefix)), samples)


def test_what_was_encoded_comes_back(tmp_path: Path) -> None:
    """Decoding restores the text, including leading spaces and multi-byte characters."""
    tokenizer = made(vocabulary_file(tmp_path / "vocabulary.gguf", sentence_pieces()))
    for text in ("the best of times", "漢字 😀 größer", "a\nb"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_the_ends_of_answers_and_the_tokens_around_texts_are_known(tmp_path: Path) -> None:
    """Control tokens that end an answer are ends besides EOS; BOS and EOS are added around a text if the header says
    so.
    """
    pairs = {**sentence_pieces(), "tokenizer.ggml.add_eos_token": True}
    path = vocabulary_file(tmp_path / "vocabulary.gguf", pairs)
    vocabulary = read_vocabulary(path)
    last = len(vocabulary.tokens) - 1
    assert vocabulary.ends == (2, last)
    ids = made(path).encode("the").ids
    assert (ids[0], ids[-1]) == (1, 2)
    config = tokenizer_config(vocabulary, 128, "{{ messages }}")
    assert (config["bos_token"], config["eos_token"], config["unk_token"]) == ("<s>", "</s>", "<unk>")
    assert config["chat_template"] == "{{ messages }}"
    assert config["model_max_length"] == 128


def test_what_is_spelt_like_an_end_is_one(tmp_path: Path) -> None:
    """A token that ends answers everywhere is a control token and an end, though the header calls it text.

    llama.cpp does the same, and so does every engine that reads the vocabulary.
    """
    pairs = sentence_pieces()
    last = len(pairs["tokenizer.ggml.tokens"]) - 1
    kinds = [*pairs["tokenizer.ggml.token_type"].value[:-1], Tagged(5, 1)]
    path = vocabulary_file(tmp_path / "vocabulary.gguf", {**pairs, "tokenizer.ggml.token_type": Tagged(9, kinds)})
    converted, found = read_vocabulary(path), read_gguf_vocabulary(path)
    assert found is not None
    assert last in converted.ends
    assert last in converted.special
    tokenizer = gguf_tokenizer("vocabulary.gguf", found)
    assert tokenizer.vocabulary().ends == {2, last}
    assert tokenizer.text_ids("a<|im_end|>", parse_special=True)[-1] == last
    assert last not in tokenizer.text_ids("a<|im_end|>")


def test_scores_that_are_missing_are_said_so(tmp_path: Path) -> None:
    """A SentencePiece vocabulary without scores cannot be used, and the message says so."""
    pairs = {key: value for key, value in sentence_pieces().items() if key != "tokenizer.ggml.scores"}
    with pytest.raises(InvalidModelFile, match="0 scores"):
        read_vocabulary(vocabulary_file(tmp_path / "vocabulary.gguf", pairs))

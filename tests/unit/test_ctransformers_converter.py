"""The converter to ctransformers' format: what it writes, keeps and refuses; and the vocabularies stored with it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corral.adapters.converters.ctransformers.convert import convert
from corral.adapters.converters.ctransformers.layout import EMBEDDING, OUTPUT, llama_shapes
from corral.adapters.converters.ctransformers.spec import CONVERTER
from corral.adapters.converters.ctransformers.tokens import KEPT_PREFIX
from corral.adapters.engines.ctransformers.checks import check_gguf
from corral.adapters.engines.ctransformers.merging import merged
from corral.adapters.engines.ctransformers.spec import SPEC, CtransformersOptions
from corral.adapters.engines.ctransformers.tokenizer import TextTokenizer, gguf_tokenizer
from corral.adapters.engines.ctransformers.words import words_of
from corral.adapters.formats.gguf.pretokenizers import PRE_TOKENIZERS
from corral.adapters.formats.gguf.reader import GgufReader
from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.adapters.formats.gguf.vocabulary import GgufVocabulary, byte_level_text, read_vocabulary
from corral.adapters.formats.gguf.writer import NewTensor, gguf_header, padding
from corral.core.errors import InvalidModelFile, InvalidRequest, Unsupported
from corral.core.models.digests import digest_of
from corral.core.models.model import ModelFile, ModelMetadata, StoredModel
from corral.core.models.names import ModelName
from corral.core.random_access import RandomAccessFile
from corral.core.requests.prompts import TextPart, TokensPart
from corral.core.specs.converters import ConvertRequest, ConvertResult
from corral.core.specs.engines import Derivation, LocalFile

TOKENS = ["<|end|>", *(byte_level_text(bytes([byte])) for byte in range(256)), "ab", "abc", "Ġab", "\u010a\u010a"]
MERGES = ["a b", "ab c", "Ġ ab", "\u010a \u010a"]
PAIRS: Mapping[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 1,
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-05,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3] + [1] * (len(TOKENS) - 1),
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.chat_template": "{{ messages }}",
}


def read_metadata(path: Path) -> ModelMetadata:
    with RandomAccessFile(path) as source:
        return GgufReader().read(source)


def write(
    path: Path,
    pairs: Mapping[str, Any] = PAIRS,
    *,
    kind: str = "F16",
    left_out: tuple[str, ...] = (OUTPUT,),
    added: Mapping[str, Any] | None = None,
    version: int = 3,
) -> Path:
    """A small llama model whose matrices are of one type, with numbers that distinguish the tensors."""
    shapes = dict(llama_shapes(pairs, len(TOKENS)))
    for name in left_out:
        del shapes[name]
    arrays = {
        name: np.full(shape[::-1], 0.25 * (place % 64 + 1), np.float32)
        for place, (name, shape) in enumerate(shapes.items())
    } | dict(added or {})
    tensors, data = [], b""
    for name, array in arrays.items():
        own = "F32" if array.ndim == 1 else kind
        if own == "BF16":
            encoded = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
        else:
            encoded = array.astype("<f4" if own == "F32" else "<f2").tobytes()
        tensors.append(NewTensor(name, own, array.shape[::-1], len(encoded)))
        data += encoded + bytes(padding(len(encoded)))
    path.write_bytes(gguf_header(version, pairs, tensors) + data)
    return path


def run(source: Path, folder: Path) -> ConvertResult:
    folder.mkdir(exist_ok=True)
    shares: list[float] = []
    files = (LocalFile(role="weights", path=str(source)),)
    result = convert(ConvertRequest(model="small", files=files, folder=str(folder)), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    return result


def record(path: Path) -> StoredModel:
    weights = ModelFile(role="weights", media_type="", digest=digest_of(b"w"), size_bytes=path.stat().st_size)
    name = ModelName(host="h", namespace="n", model="m", tag="t")
    return StoredModel(name=name, digest=digest_of(b""), size_bytes=0, modified_at=0.0, format="gguf", files=(weights,))


def test_the_form(tmp_path: Path) -> None:
    """The result is version 2 with an SPM table and an output matrix that repeats the tied embedding's bytes."""
    source = write(tmp_path / "source.gguf")
    result = run(source, tmp_path / "out")
    assert [file.path for file in result.files] == ["model.gguf"]
    assert (result.format, result.quantization, result.context_length) == ("gguf", "F16", 64)
    metadata, table = check_gguf(tmp_path / "out" / "model.gguf")
    assert metadata.format_version == 2
    assert metadata.chat_template == "{{ messages }}"
    assert table.model == "llama"
    assert table.named == {"eos": 0}
    with GgufTensors(source) as before, GgufTensors(tmp_path / "out" / "model.gguf") as after:
        assert set(after.names) == set(before.names) | {OUTPUT}
        for name in before.names:
            assert np.array_equal(before.dequantized(name), after.dequantized(name))
        assert np.array_equal(after.dequantized(OUTPUT), after.dequantized(EMBEDDING))


def test_an_output_matrix_of_its_own_stays(tmp_path: Path) -> None:
    """A model that has an output matrix keeps it."""
    run(write(tmp_path / "source.gguf", left_out=()), tmp_path / "out")
    with GgufTensors(tmp_path / "out" / "model.gguf") as after:
        assert not np.array_equal(after.dequantized(OUTPUT), after.dequantized(EMBEDDING))


def test_types_that_came_later(tmp_path: Path) -> None:
    """BF16 becomes F16, with the same numbers; norms become F32."""
    result = run(write(tmp_path / "source.gguf", kind="BF16"), tmp_path / "out")
    assert result.quantization == "F16"
    path = tmp_path / "out" / "model.gguf"
    assert set(read_metadata(path).tensor_types) == {"F16", "F32"}
    with GgufTensors(tmp_path / "source.gguf") as before, GgufTensors(path) as after:
        assert np.array_equal(before.dequantized("blk.0.ffn_up.weight"), after.dequantized("blk.0.ffn_up.weight"))


def test_the_table_of_tokens(tmp_path: Path) -> None:
    """Pieces are spelt with the SPM space, unprintable bytes as byte tokens, earlier merges score higher."""
    run(write(tmp_path / "source.gguf"), tmp_path / "out")
    table = read_vocabulary(tmp_path / "out" / "model.gguf")
    assert table is not None
    texts = dict(enumerate(table.texts))
    assert texts[1 + 0x41] == "A"
    assert texts[1 + 0x0A] == "<0x0A>"
    assert texts[1 + 0xFF] == "<0xFF>"
    assert texts[1 + 0x20] == "\u2581"
    assert [texts[place] for place in range(257, 261)] == ["ab", "abc", "\u2581ab", "\n\n"]
    assert table.scores[257] > table.scores[258] > table.scores[259] > table.scores[0]
    assert (table.kinds[0], table.kinds[1 + 0x0A], table.kinds[257]) == (3, 6, 1)


def test_the_original_vocabulary_stays(tmp_path: Path) -> None:
    """The vocabulary that prompts are encoded by is the source's, token for token."""
    source = write(tmp_path / "source.gguf")
    run(source, tmp_path / "out")
    assert read_vocabulary(tmp_path / "out" / "model.gguf", prefix=KEPT_PREFIX) == read_vocabulary(source)


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ({"general.architecture": "qwen2"}, "supports only the llama architecture"),
        ({"llama.expert_count": 8}, "mixtures of experts"),
        ({"llama.rope.scaling.type": "yarn"}, "does not support the rope scaling 'yarn'"),
        ({"llama.attention.key_length": 16}, r"attention\.key_length to be 8"),
        ({"llama.feed_forward_length": 0}, r"no usable llama\.feed_forward_length"),
        ({"tokenizer.ggml.pre": "unheard-of"}, "the pre-tokenizer 'unheard-of' of its vocabulary is not supported"),
        ({"tokenizer.ggml.model": "bert"}, "of type 'bert'"),
    ],
)
def test_what_cannot_be_computed(tmp_path: Path, pairs: dict[str, Any], reason: str) -> None:
    """A model newer than September 2023 is refused with the reason, by the match and by the conversion."""
    usable = dict(PAIRS)
    source = write(tmp_path / "source.gguf", usable)
    header = gguf_header(3, usable | pairs, [])
    (tmp_path / "other.gguf").write_bytes(header)
    metadata = read_metadata(tmp_path / "other.gguf")
    match = CONVERTER.match(record(source), metadata)
    assert match.score == 0
    with pytest.raises(Unsupported, match=reason):
        run(tmp_path / "other.gguf", tmp_path / "out")


def test_foreign_tensors(tmp_path: Path) -> None:
    """Tensors that change what is computed are refused; rope frequencies that are all one are left out."""
    bias = {"blk.0.attn_q.bias": np.zeros(32, np.float32)}
    with pytest.raises(Unsupported, match=r"attn_q\.bias"):
        run(write(tmp_path / "bias.gguf", added=bias), tmp_path / "out")
    scaled = {"rope_freqs.weight": np.full(4, 8.0, np.float32)}
    with pytest.raises(Unsupported, match="rope_freqs"):
        run(write(tmp_path / "scaled.gguf", added=scaled), tmp_path / "out")
    plain = {"rope_freqs.weight": np.ones(4, np.float32)}
    run(write(tmp_path / "plain.gguf", added=plain), tmp_path / "out")


def test_linear_scaling(tmp_path: Path) -> None:
    """Linear scaling of positions gets the key that it had in 2023."""
    pairs = {**PAIRS, "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    run(write(tmp_path / "source.gguf", pairs), tmp_path / "out")
    assert read_metadata(tmp_path / "out" / "model.gguf").keys["llama.rope.scale_linear"] == 4.0


def test_a_wrong_shape(tmp_path: Path) -> None:
    """A tensor of the wrong shape is an invalid file, named with both shapes."""
    wrong = {"blk.0.attn_k.weight": np.zeros((8, 32), np.float32)}
    with pytest.raises(InvalidModelFile, match=r"attn_k\.weight' is \(32, 8\), not \(32, 16\)"):
        run(write(tmp_path / "source.gguf", added=wrong), tmp_path / "out")


def test_match() -> None:
    """A model without weights in this format has nothing to convert."""
    nothing = CONVERTER.match(record(Path(__file__)), None)
    assert nothing.score == 0
    assert SPEC.match(record(Path(__file__)), None, CtransformersOptions()).score == 0


def test_engine_match(tmp_path: Path) -> None:
    """The engine runs its own format directly, newer files through the converter, and refuses others with the
    reason."""
    source = write(tmp_path / "source.gguf")
    run(source, tmp_path / "out")
    converted = tmp_path / "out" / "model.gguf"
    direct = SPEC.match(record(converted), read_metadata(converted), CtransformersOptions())
    assert (direct.score, direct.derive) == (60, None)
    through = SPEC.match(record(source), read_metadata(source), CtransformersOptions())
    assert (through.score, through.derive) == (20, Derivation(converter="ctransformers"))


def test_what_the_engine_checks(tmp_path: Path) -> None:
    """A file that would make native code end the process is refused first, with a remedy."""
    source = write(tmp_path / "source.gguf")
    with pytest.raises(InvalidModelFile, match="GGUF version 3") as caught:
        check_gguf(source)
    assert caught.value.remedy is not None
    run(source, tmp_path / "out")
    good = tmp_path / "out" / "model.gguf"
    data = good.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[:-40])
    with pytest.raises(InvalidModelFile, match="truncated"):
        check_gguf(tmp_path / "cut.gguf")
    table = {key: list(value) for key, value in _spm().items()}
    pairs = {**PAIRS, **table, "tokenizer.ggml.model": "llama"}
    with pytest.raises(InvalidModelFile, match=r"no tensor 'output\.weight'"):
        check_gguf(write(tmp_path / "tied.gguf", pairs, version=2))
    extra = {"blk.0.attn_q.bias": np.zeros(32, np.float32)}
    with pytest.raises(InvalidModelFile, match="ctransformers does not support its tensor"):
        check_gguf(write(tmp_path / "extra.gguf", pairs, version=2, left_out=(), added=extra))
    unscored = {key: value for key, value in pairs.items() if not key.endswith(".scores")}
    with pytest.raises(InvalidModelFile, match="lacks scores"):
        check_gguf(write(tmp_path / "unscored.gguf", unscored, version=2, left_out=()))
    with pytest.raises(InvalidModelFile, match="no SPM vocabulary"):
        check_gguf(write(tmp_path / "bpe.gguf", version=2, left_out=()))


def _spm() -> dict[str, list[Any]]:
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    texts += [str(place) for place in range(len(TOKENS) - len(texts))]
    return {
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": [0.0] * len(texts),
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(texts) - 259),
    }


# ── Vocabularies and tokenizers ───────────────────────────────────────────────────────────────────────────────────


def bpe() -> TextTokenizer:
    kinds = tuple(PAIRS["tokenizer.ggml.token_type"])
    return gguf_tokenizer(
        "small",
        GgufVocabulary(
            model="gpt2", pre="gpt-2", texts=tuple(TOKENS), kinds=kinds, merges=tuple(MERGES), named={"eos": 0}
        ),
    )


def spm(**changes: Any) -> TextTokenizer:
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "b", "ab", "\u2581a"]
    kinds = [2, 3, 3] + [6] * 256 + [1] * 5
    scores = [0.0] * 262 + [-1.0, -2.0]
    fields = {"texts": tuple(texts), "kinds": tuple(kinds), "scores": tuple(scores), "named": {"bos": 1, "eos": 2}}
    return gguf_tokenizer("small", GgufVocabulary(model="llama", **(fields | changes)))


def test_merging() -> None:
    """The best pair is merged first, the leftmost of equal pairs, and merged tokens can be merged again."""
    ranks = {("a", "b"): 1.0, ("b", "c"): 0.0, ("a", "bc"): 2.0, ("x", "x"): 3.0}
    assert merged("abc", lambda left, right: ranks.get((left, right))) == ["abc"]
    assert merged("xxx", lambda left, right: ranks.get((left, right))) == ["xx", "x"]
    assert merged("", lambda left, right: 0.0) == []


def test_bpe() -> None:
    """Words are split before merging; what no merge produces stays bytes; decoding gives the text back."""
    tokenizer = bpe()
    assert tokenizer.text_ids("ab abc") == [257, 1 + ord(" "), 258]
    assert tokenizer.text_ids("abc") == [258]
    for text in ("ab abc\n\n x", "é日本\x00", ""):
        assert tokenizer.decode(tokenizer.text_ids(text)).decode() == text


@pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS))
def test_words(name: str) -> None:
    """Each way of splitting gives the words that the library `tokenizers` gives for the same patterns."""
    tokenizers = pytest.importorskip("tokenizers")
    pretokenizer = PRE_TOKENIZERS[name]
    splits = [tokenizers.pre_tokenizers.Split(tokenizers.Regex(one), "isolated") for one in pretokenizer.patterns]
    reference = tokenizers.pre_tokenizers.Sequence(splits)
    texts = [
        "I'LL don't 'S  12345,\n\n\t x\r\n ½ ² Ⅷ 😀 नमस्ते مرحبا Ǆ ʰ 日本語、１２３ café $a+b=c `~ !foo {bar}  ",
        Path(__file__).read_text(encoding="utf-8"),
    ]
    for text in texts:
        assert words_of(text, pretokenizer) == [word for word, _ in reference.pre_tokenize_str(text)]


def test_control_tokens_are_told_from_text() -> None:
    """A control token is recognised only in parts that ask for it, and stays text in others."""
    tokenizer = bpe()
    [ids] = tokenizer.encode([(TextPart(text="ab<|end|>", parse_special=True), TextPart(text="<|end|>"))])
    assert ids[:2] == (257, 0)
    assert ids.count(0) == 1
    assert tokenizer.decode(ids) == b"ab<|end|><|end|>"


def test_bos_comes_once() -> None:
    """BOS is added for models that want it, but not if the prompt begins with it."""
    tokenizer = spm()
    assert tokenizer.encode([(TextPart(text="ab"),), (TokensPart(ids=(1, 260)),)]) == [(1, 259, 262), (1, 260)]
    silent = spm(add_bos=False)
    assert silent.encode([()]) == [()]


def test_spm() -> None:
    """Neighbours are merged by score, a space is put before each text, and characters without a token become bytes."""
    tokenizer = spm()
    assert tokenizer.text_ids("b") == [259, 261]
    assert tokenizer.text_ids("é") == [259, 3 + 0xC3, 3 + 0xA9]
    assert spm(add_space_prefix=False).text_ids("ab") == [262]
    assert tokenizer.decode([263, 3 + 0x0A]) == b" a\n"


def test_ids_beyond_the_vocabulary() -> None:
    """A token id that does not exist is refused, because native code would read outside its tables."""
    with pytest.raises(InvalidRequest, match="token 999 is not in the vocabulary"):
        bpe().encode([(TokensPart(ids=(999,)),)])
    with pytest.raises(InvalidRequest, match="token -1"):
        bpe().decode([-1])


def test_a_very_long_word() -> None:
    """The time to encode a word of a hundred thousand letters does not grow with the square of its length."""
    assert len(bpe().text_ids("ab" * 50_000)) == 50_000


def test_vocabularies_that_are_wrong(tmp_path: Path) -> None:
    """Counts and ids that do not fit the tokens are an invalid file."""
    short = {**PAIRS, "tokenizer.ggml.token_type": [1]}
    with pytest.raises(InvalidModelFile, match="1 values for"):
        read_vocabulary(write(tmp_path / "short.gguf", short))
    beyond = {**PAIRS, "tokenizer.ggml.eos_token_id": 70_000}
    with pytest.raises(InvalidModelFile, match="eos_token_id is 70000"):
        read_vocabulary(write(tmp_path / "beyond.gguf", beyond))
    without = {key: value for key, value in PAIRS.items() if not key.startswith("tokenizer")}
    assert read_vocabulary(write(tmp_path / "without.gguf", without)) is None


def test_header_types() -> None:
    """Numbers are written in the narrowest type that keeps them, as readers of 2023 expect."""
    header = gguf_header(2, {"a": 1, "b": -1, "c": 1 << 40, "d": 0.5, "e": True}, [])
    assert header.startswith(struct.pack("<4sIQQ", b"GGUF", 2, 0, 5))
    assert struct.pack("<Q1sII", 1, b"a", 4, 1) in header
    assert struct.pack("<Q1sIi", 1, b"b", 5, -1) in header
    assert struct.pack("<Q1sIQ", 1, b"c", 10, 1 << 40) in header

"""GGUF to ONNX: graphs against an independent forward pass in NumPy, and the errors that files and disks give."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from corral.adapters.converters.onnx.spec import CONVERTER, OnnxParameters
from corral.adapters.formats.gguf import GgufReader
from corral.core.errors import InvalidModelFile, InvalidOption, OutOfSpace, StorageError, Unsupported
from corral.core.models.digests import digest_of
from corral.core.models.model import ModelFile, ModelMetadata, StoredModel
from corral.core.models.names import ModelName
from corral.core.random_access import RandomAccessFile
from corral.core.specs.converters import ConvertRequest, ConvertResult
from corral.core.specs.engines import LocalFile
from corral.plugins.testing.gguf import TensorEntry, gguf_bytes

pytest.importorskip("onnx")
from corral.adapters.converters.onnx.convert import convert  # imports onnx

Floats = NDArray[np.float32]

HIDDEN, HEADS, KV_HEADS, WIDTH, LAYERS, VOCABULARY = 64, 4, 2, 96, 2, 80
EPSILON, BASE = 1e-5, 10_000.0
F32, Q4_0, Q4_1 = 0, 2, 3


WEIGHTS = ModelFile(role="weights", media_type="", digest=digest_of(b"x"), size_bytes=1)
RECORD = StoredModel(
    name=ModelName(host="h", namespace="n", model="m", tag="t"),
    digest=digest_of(b""),
    size_bytes=1,
    modified_at=0,
    files=(WEIGHTS,),
    format="gguf",
)


def read_metadata(path: Path) -> ModelMetadata:
    with RandomAccessFile(path) as source:
        return GgufReader().read(source)


class Tiny(NamedTuple):
    """A random model; `weights` are its file's weights as NumPy arrays."""

    pairs: dict[str, Any]
    weights: dict[str, Floats]
    tensors: tuple[TensorEntry, ...]

    def without(self, name: str) -> bytes:
        return gguf_bytes(self.pairs, [tensor for tensor in self.tensors if tensor.name != name])

    @property
    def data(self) -> bytes:
        return gguf_bytes(self.pairs, self.tensors)


def q4_1(rng: np.random.Generator, rows: int, columns: int) -> tuple[Floats, bytes]:
    """Random Q4_1 blocks, and the numbers they represent: any steps, minima and levels."""
    count = rows * columns // 32
    steps = (rng.uniform(0.005, 0.02, count)).astype(np.float16)
    minima = (-steps * rng.uniform(4, 11, count)).astype(np.float16)
    levels = rng.integers(0, 16, (count, 32), dtype=np.uint8)
    numbers = steps.astype(np.float32)[:, None] * levels + minima.astype(np.float32)[:, None]
    data = b"".join(
        struct.pack("<ee", steps[i], minima[i]) + (levels[i, :16] | levels[i, 16:] << 4).tobytes() for i in range(count)
    )
    return numbers.reshape(rows, columns).astype(np.float32), data


def q4_0(rng: np.random.Generator, rows: int, columns: int) -> tuple[Floats, bytes]:
    """Random Q4_0 blocks, and the numbers they represent."""
    count = rows * columns // 32
    steps = rng.uniform(0.005, 0.02, count).astype(np.float16)
    levels = rng.integers(0, 16, (count, 32), dtype=np.uint8)
    numbers = steps.astype(np.float32)[:, None] * (levels.astype(np.float32) - 8)
    data = b"".join(
        struct.pack("<e", steps[i]) + (levels[i, :16] | levels[i, 16:] << 4).tobytes() for i in range(count)
    )
    return numbers.reshape(rows, columns).astype(np.float32), data


def f32(rng: np.random.Generator, rows: int, columns: int) -> tuple[Floats, bytes]:
    """Random float32 on the grid of 8-bit blocks: each reaches 127 steps, so that 8 bits lose nothing."""
    levels = rng.integers(-127, 128, (rows, columns // 32, 32))
    levels[:, :, 5] = 127
    steps = rng.uniform(0.001, 0.003, (rows, columns // 32, 1))
    numbers = (levels * steps).reshape(rows, columns).astype(np.float32)
    return numbers, numbers.tobytes()


ENCODINGS: Mapping[int, Callable[[np.random.Generator, int, int], tuple[Floats, bytes]]] = {
    F32: f32,
    Q4_0: q4_0,
    Q4_1: q4_1,
}


def tiny(
    architecture: str,
    *,
    type_id: int = Q4_1,
    head_size: int = 16,
    tied: bool = True,
    rope_factors: bool = False,
    more: Mapping[str, Any] = {},
) -> Tiny:
    """A random model of two layers. `more` are additional header keys, without the architecture's prefix."""
    rng = np.random.default_rng(11)
    weights: dict[str, Floats] = {}
    tensors: list[TensorEntry] = []

    def matrix(name: str, rows: int, columns: int, type_id: int) -> None:
        weights[name], data = ENCODINGS[type_id](rng, rows, columns)
        tensors.append(TensorEntry(name, (columns, rows), type_id, data=data))

    def vector(name: str, length: int, mean: float) -> None:
        weights[name] = (mean + rng.standard_normal(length) / 5).astype(np.float32)
        tensors.append(TensorEntry(name, (length,), F32, data=weights[name].tobytes()))

    matrix("token_embd.weight", VOCABULARY, HIDDEN, F32)
    if not tied:
        matrix("output.weight", VOCABULARY, HIDDEN, F32)
    vector("output_norm.weight", HIDDEN, 1)
    if rope_factors:
        weights["rope_freqs.weight"] = np.linspace(1, 8, head_size // 2, dtype=np.float32)
        data = weights["rope_freqs.weight"].tobytes()
        tensors.append(TensorEntry("rope_freqs.weight", (head_size // 2,), F32, data=data))
    for layer in range(LAYERS):
        name = f"blk.{layer}"
        for part, rows in (("q", HEADS * head_size), ("k", KV_HEADS * head_size), ("v", KV_HEADS * head_size)):
            matrix(f"{name}.attn_{part}.weight", rows, HIDDEN, type_id)
            if architecture == "qwen2":
                vector(f"{name}.attn_{part}.bias", rows, 0)
            if architecture == "qwen3" and part != "v":
                vector(f"{name}.attn_{part}_norm.weight", head_size, 1)
        matrix(f"{name}.attn_output.weight", HIDDEN, HEADS * head_size, type_id)
        for part in ("gate", "up"):
            matrix(f"{name}.ffn_{part}.weight", WIDTH, HIDDEN, type_id)
        matrix(f"{name}.ffn_down.weight", HIDDEN, WIDTH, type_id)
        for part in ("attn_norm", "ffn_norm"):
            vector(f"{name}.{part}.weight", HIDDEN, 1)
    numbers = {
        "block_count": LAYERS,
        "context_length": 64,
        "embedding_length": HIDDEN,
        "feed_forward_length": WIDTH,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": head_size,
        "attention.value_length": head_size,
        "attention.layer_norm_rms_epsilon": EPSILON,
        "rope.freq_base": BASE,
        **more,
    }
    letters = [chr(code) for code in range(33, 33 + VOCABULARY - 3)]
    pairs = {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": value for key, value in numbers.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*letters, "ab", "<|im_start|>", "<|im_end|>"],
        "tokenizer.ggml.token_type": [1] * (VOCABULARY - 2) + [3, 3],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": VOCABULARY - 1,
        "tokenizer.chat_template": "{{ messages }}",
    }
    return Tiny(pairs, weights, tuple(tensors))


def forward(model: Tiny, ids: list[int]) -> Floats:
    """Logits of every position, by an independent llama implementation on the GGUF's layout."""
    architecture, w = model.pairs["general.architecture"], model.weights
    head_size = model.pairs[f"{architecture}.attention.key_length"]
    scale = model.pairs.get(f"{architecture}.rope.scaling.factor", 1.0)

    def norm(x: Floats, weight: Floats) -> Floats:
        return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * weight)

    def project(x: Floats, name: str) -> Floats:
        return np.asarray(x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", np.float32(0)))

    def heads(x: Floats, name: str) -> Floats:
        split = x.reshape(len(ids), -1, head_size)
        weight = w.get(f"{name}_norm.weight")
        return split if weight is None else norm(split, weight)

    def turned(x: Floats) -> Floats:
        frequencies = BASE ** (-2 * np.arange(head_size // 2) / head_size) / w.get("rope_freqs.weight", 1.0)
        angles = np.arange(len(ids))[:, None, None] / scale * frequencies
        # llama's rows are pairs; the others' first half is turned with the second
        a, b = (x[..., 0::2], x[..., 1::2]) if architecture == "llama" else np.split(x, 2, axis=-1)
        first, second = a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)
        return np.concatenate((first, second), axis=-1)

    x = w["token_embd.weight"][ids]
    for layer in range(LAYERS):
        name = f"blk.{layer}"
        h = norm(x, w[f"{name}.attn_norm.weight"])
        q, k = (turned(heads(project(h, f"{name}.attn_{part}"), f"{name}.attn_{part}")) for part in ("q", "k"))
        v = project(h, f"{name}.attn_v").reshape(len(ids), -1, head_size)
        k, v = (np.repeat(part, HEADS // KV_HEADS, axis=1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(head_size)
        scores[:, np.triu_indices(len(ids), 1)[0], np.triu_indices(len(ids), 1)[1]] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        attended = np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), v)
        x = x + project(attended.reshape(len(ids), -1), f"{name}.attn_output")
        h = norm(x, w[f"{name}.ffn_norm.weight"])
        gate = project(h, f"{name}.ffn_gate")
        x = x + project(gate / (1 + np.exp(-gate)) * project(h, f"{name}.ffn_up"), f"{name}.ffn_down")
    output = w.get("output.weight", w["token_embd.weight"])
    return np.asarray(norm(x, w["output_norm.weight"]) @ output.T, dtype=np.float32)


Convert = Callable[..., tuple[Path, ConvertResult, list[float]]]


@pytest.fixture
def converted(tmp_path: Path) -> Convert:
    """Converts a file's bytes with these parameters; returns folder, result and reported progress."""

    def run(data: bytes, **parameters: Any) -> tuple[Path, ConvertResult, list[float]]:
        source, folder = tmp_path / "model.gguf", tmp_path / "out"
        source.write_bytes(data)
        folder.mkdir(exist_ok=True)
        shares: list[float] = []
        files = (LocalFile(role="weights", path=str(source)),)
        request = ConvertRequest(model="tiny", files=files, folder=str(folder), parameters=parameters)
        return folder, convert(request, shares.append), shares

    return run


ONNX_RUNTIME = """
import json, os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy, onnxruntime
for line in sys.stdin:
    folder, parts = json.loads(line)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder + "/model.onnx", options)
    with open(folder + "/genai_config.json") as file:
        decoder = json.load(file)["model"]["decoder"]
    shape = (1, decoder["num_key_value_heads"], 0, decoder["head_size"])
    names = [value.name for value in session.get_inputs() if value.name.startswith("past_key_values.")]
    cache, seen, found = {name: numpy.zeros(shape, "float32") for name in names}, 0, []
    for ids in parts:
        seen += len(ids)
        inputs = {"input_ids": numpy.array([ids]), "attention_mask": numpy.ones((1, seen), "int64")}
        logits, *present = session.run(None, {**inputs, **cache})
        cache = dict(zip(names, present))
        found.append(logits.tolist())
    print(json.dumps(found), flush=True)
"""
"""In a separate process: importing ONNX Runtime enables AMX for the whole process, which crashes llama.cpp."""

RunParts = Callable[[Path, list[list[int]]], list[Floats]]


@pytest.fixture(scope="module")
def run_parts() -> Iterator[RunParts]:
    """Logits after the last token of each part of a prompt, with the cache kept between the parts."""
    pytest.importorskip("onnxruntime")
    command = (sys.executable, "-c", ONNX_RUNTIME)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:

        def run(folder: Path, parts: list[list[int]]) -> list[Floats]:
            assert child.stdin
            assert child.stdout
            print(json.dumps([str(folder), parts]), file=child.stdin, flush=True)
            found = [np.array(logits, dtype=np.float32) for logits in json.loads(child.stdout.readline())]
            assert {logits.shape for logits in found} == {(1, 1, VOCABULARY)}
            return [logits[0, 0] for logits in found]

        yield run


MODELS = {
    "llama": tiny("llama"),
    "llama, output of its own": tiny("llama", tied=False),
    "llama, Q4_0": tiny("llama", type_id=Q4_0),
    "llama, F32": tiny("llama", type_id=F32),
    "llama 3's frequencies": tiny("llama", rope_factors=True),
    "llama, linear scaling": tiny("llama", more={"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    "qwen2, with biases": tiny("qwen2"),
    "qwen3, with normalised heads that are longer": tiny("qwen3", head_size=32),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_computes_what_the_model_says(name: str, converted: Convert, run_parts: RunParts) -> None:
    """In float32, logits are those of an independent forward pass over the GGUF's numbers, prompt and cache alike."""
    model = MODELS[name]
    folder, _, _ = converted(model.data, accuracy_level=1)
    ids = [int(token) for token in np.random.default_rng(3).integers(0, VOCABULARY, 24)]
    expected = forward(model, ids)
    limit = 0.03 if any(tensor.type_id == Q4_1 for tensor in model.tensors) else 0.003  # remainders have 4 bits
    found = run_parts(folder, [ids[:18], ids[18:19], ids[19:]])
    for last, logits in zip((17, 18, 23), found, strict=True):
        error = np.abs(logits - expected[last]).max() / expected[last].std()
        assert error < limit, (last, error)


def test_int8_products_are_near(converted: Convert, run_parts: RunParts) -> None:
    """As it runs by default, with activations rounded to int8, logits are near those of float32."""
    ids = list(range(20))
    for type_id in (F32, Q4_0, Q4_1):
        model = tiny("llama", type_id=type_id)
        folder, _, _ = converted(model.data)
        assert np.corrcoef(run_parts(folder, [ids])[0], forward(model, ids)[-1])[0, 1] > 0.995


def test_the_folder_is_whole(converted: Convert) -> None:
    """The result names exactly the files that are there, its lengths are the model's, and progress ends at one."""
    folder, result, shares = converted(tiny("llama").data)
    assert sorted(file.path for file in result.files) == sorted(path.name for path in folder.iterdir())
    assert {file.path for file in result.files if file.role == "weights"} == {"model.onnx", "model.onnx.data"}
    assert (result.format, result.quantization) == ("onnx", "int4")
    assert (result.context_length, result.embedding_length) == (64, HIDDEN)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    config = json.loads((folder / "genai_config.json").read_bytes())
    assert config["model"]["eos_token_id"] == [VOCABULARY - 1]
    assert config["model"]["vocab_size"] == VOCABULARY
    assert config["search"]["max_length"] == 64
    assert (folder / "chat_template.jinja").read_text() == "{{ messages }}"
    assert json.loads((folder / "tokenizer_config.json").read_bytes())["chat_template"] == "{{ messages }}"


def test_a_context_that_no_model_has(converted: Convert) -> None:
    """A header that claims a context of two billion tokens gets tables for a million, so that the file stays small."""
    folder, result, _ = converted(tiny("llama", more={"context_length": (1 << 31) - 1}).data)
    assert result.context_length == 1 << 20
    assert (folder / "model.onnx.data").stat().st_size < 100 << 20


def test_parameters_are_obeyed(converted: Convert) -> None:
    """Bits and context length are as requested; weights that are not 4-bit blocks get 8 bits unless requested
    otherwise.
    """
    _, result, _ = converted(tiny("llama").data, bits=8, context_length=32)
    assert (result.quantization, result.context_length) == ("int8", 32)
    assert converted(tiny("llama", type_id=F32).data)[1].quantization == "int8"
    assert converted(tiny("llama", type_id=F32).data, bits=4)[1].quantization == "int4"
    for wrong in ({"bits": 5}, {"context_length": 0}, {"color": "red"}):
        with pytest.raises(InvalidOption, match=next(iter(wrong))):
            converted(tiny("llama").data, **wrong)


def test_rounding_to_four_bits_is_near(converted: Convert, run_parts: RunParts) -> None:
    """Float weights converted to 4 bits on request still give nearly the same logits."""
    model, ids = tiny("llama", type_id=F32), list(range(20))
    folder, _, _ = converted(model.data, bits=4, accuracy_level=1)
    assert np.corrcoef(run_parts(folder, [ids])[0], forward(model, ids)[-1])[0, 1] > 0.9


def test_what_cannot_be_converted_is_named(converted: Convert, tmp_path: Path) -> None:
    """Unknown architectures, tensors, scalings and tokenizers are refused by name."""
    model = tiny("llama")

    def changed(**pairs: Any) -> bytes:
        return gguf_bytes({**model.pairs, **pairs}, model.tensors)

    cases: dict[str, bytes] = {
        "'gemma3'": changed(**{"general.architecture": "gemma3"}),
        "'my-pre'.*llama-bpe": changed(**{"tokenizer.ggml.pre": "my-pre"}),
        "'t5'": changed(**{"tokenizer.ggml.model": "t5"}),
        "'yarn'": changed(**{"llama.rope.scaling.type": "yarn"}),
        "blk.9.extra": gguf_bytes(model.pairs, [*model.tensors, TensorEntry("blk.9.extra")]),
        "8 of a head's 16": changed(**{"llama.rope.dimension_count": 8}),
    }
    for pattern, data in cases.items():
        with pytest.raises(Unsupported, match=pattern):
            converted(data)
    with pytest.raises(Unsupported, match="0 weights files"):
        convert(ConvertRequest(model="none", files=(), folder=str(tmp_path)), lambda share: None)


def test_broken_files_are_named(converted: Convert) -> None:
    """For a missing tensor or number, a wrong shape and a truncated file, the error says what is wrong."""
    model = tiny("llama")

    def changed(**pairs: Any) -> bytes:
        kept = {key: value for key, value in {**model.pairs, **pairs}.items() if value is not None}
        return gguf_bytes(kept, model.tensors)

    short = TensorEntry("blk.0.attn_q.weight", (32, 64), Q4_1, data=bytes(64 * 20))
    reshaped = [short if tensor.name == short.name else tensor for tensor in model.tensors]
    cases = {
        "no tensor 'blk.1.ffn_up.weight'": model.without("blk.1.ffn_up.weight"),
        "llama.block_count": changed(**{"llama.block_count": None}),
        "head_count is 0": changed(**{"llama.attention.head_count": 0}),
        "share 3": changed(**{"llama.attention.head_count_kv": 3}),
        "'blk.0.attn_q.weight'.*its rows must have 64": gguf_bytes(model.pairs, reshaped),
        "tokenizer.ggml.merges": changed(**{"tokenizer.ggml.merges": None}),
        "'a'.*twice": changed(**{"tokenizer.ggml.tokens": ["a"] * VOCABULARY}),
        "truncated": model.data[: len(model.data) // 2],
    }
    for pattern, data in cases.items():
        with pytest.raises(InvalidModelFile, match=pattern):
            converted(data)


def test_a_full_disk_and_a_missing_folder_are_said_so(converted: Convert, tmp_path: Path) -> None:
    """A full disk raises `OutOfSpace`, any other fault of the folder `StorageError`."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx.data").symlink_to("/dev/full")
    with pytest.raises(OutOfSpace, match=r"model\.onnx\.data: No space left"):
        converted(tiny("llama").data)
    files = (LocalFile(role="weights", path=str(tmp_path / "model.gguf")),)
    request = ConvertRequest(model="tiny", files=files, folder=str(tmp_path / "absent"))
    with pytest.raises(StorageError, match="absent"):
        convert(request, lambda share: None)


def test_the_estimate_is_enough_and_not_absurd(converted: Convert, tmp_path: Path) -> None:
    """A conversion takes the disk space it says it needs, up to a fixed amount for everything but the weights."""
    assert CONVERTER.estimate is not None
    for type_id, bits in ((F32, None), (F32, 4), (Q4_1, None), (Q4_1, 8)):
        folder, _, _ = converted(tiny("llama", type_id=type_id).data, bits=bits)
        metadata = read_metadata(tmp_path / "model.gguf")
        needed = CONVERTER.estimate(RECORD, metadata, msgspec.convert({"bits": bits}, OnnxParameters))["disk"]
        taken = sum(path.stat().st_size for path in folder.iterdir())
        assert taken < needed < taken + 65 * 1024 * 1024


def test_match_says_why_not(tmp_path: Path) -> None:
    """Models that can be converted match; others score 0, with the reason."""
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny("qwen2").data)
    metadata = read_metadata(path)
    assert CONVERTER.match(RECORD, metadata).score > 0

    def reason(**changes: Any) -> str:
        keys = {**metadata.keys, **changes.pop("keys", {})}
        match = CONVERTER.match(RECORD, msgspec.structs.replace(metadata, keys=keys, **changes))
        assert match.score == 0
        return match.reason

    assert "gemma3" in reason(architecture="gemma3")
    assert "experts" in reason(keys={"qwen2.expert_count": 8})
    assert "yarn" in reason(keys={"qwen2.rope.scaling.type": "yarn"})
    assert "t5" in reason(keys={"tokenizer.ggml.model": "t5"})
    assert "my-pre" in reason(keys={"tokenizer.ggml.pre": "my-pre"})
    assert "IQ2_XS" in reason(tensor_types={"IQ2_XS": 1, "F32": 1})
    assert "safetensors" in CONVERTER.match(RECORD, msgspec.structs.replace(metadata, format="safetensors")).reason
    assert CONVERTER.match(msgspec.structs.replace(RECORD, files=()), metadata).score == 0
    assert CONVERTER.match(RECORD, None).reason == "needs weights that can be read"


GENAI = """
import json, os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy, onnxruntime_genai as genai
folder, prompt, ids, out = sys.argv[1:]
model = genai.Model(folder)
tokenizer = genai.Tokenizer(model)
generator = genai.Generator(model, genai.GeneratorParams(model))
generator.append_tokens(tokenizer.encode(prompt))
generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))
generator = genai.Generator(model, genai.GeneratorParams(model))
logits = []
for token in json.loads(ids):
    generator.append_tokens([token])
    logits.append(numpy.array(generator.get_logits()).ravel())
numpy.save(out, logits)
"""

LLAMA_CPP = """
import json, sys
from corral.adapters.engines.llama_cpp.no_amx import avoid_amx
avoid_amx()
import numpy, llama_cpp
path, text, out = sys.argv[1:]
model = llama_cpp.Llama(path, n_ctx=64, logits_all=True, verbose=False, n_threads=2, flash_attn=False)
ids = model.tokenize(text.encode(), add_bos=False)
model.eval(ids)
numpy.save(out, model.scores[:len(ids)])
print(json.dumps(ids))
"""


def run_python(code: str, *arguments: str) -> str:
    child = subprocess.run((sys.executable, "-c", code, *arguments), capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()


@pytest.mark.native
def test_smollm2_loses_next_to_nothing(smollm2: Path, smollm2_onnx: Path, tmp_path: Path) -> None:
    """SmolLM2, converted, runs in ONNX Runtime GenAI, with llama.cpp's probabilities except for rounding."""
    pytest.importorskip("onnxruntime_genai")
    pytest.importorskip("llama_cpp")
    text = "Paris is the capital of France. About two million people live there, on both banks of the river Seine."
    theirs, ours = tmp_path / "theirs.npy", tmp_path / "ours.npy"
    ids = run_python(LLAMA_CPP, str(smollm2), text, str(theirs))
    answer = run_python(GENAI, str(smollm2_onnx), "The capital of France is", ids, str(ours))
    assert answer == "The capital of France is Paris"
    expected, found = log_probabilities(np.load(theirs)), log_probabilities(np.load(ours))
    assert (np.exp(expected) * (expected - found)).sum(-1).mean() < 0.02
    assert np.mean(found.argmax(-1) == expected.argmax(-1)) > 0.8


def log_probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))

"""Checkpoints in safetensors become the GGUF files that llama.cpp's own converter would make of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corral import Corral
from corral.adapters.converters.safetensors.convert import convert
from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.adapters.formats.gguf.vocabulary import read_vocabulary
from corral.adapters.formats.safetensors.tensors import SafetensorsFiles
from corral.core.errors import CorralError, InvalidModelFile, Unsupported
from corral.core.specs.converters import ConvertRequest, ConvertResult
from corral.core.specs.engines import LocalFile
from tests.checkpoints.files import write_safetensors
from tests.checkpoints.from_gguf import write_llama_checkpoint
from tests.checkpoints.tiny import write_tiny_checkpoint

PROMPTS = (
    "The capital of France is", "Once upon a time,", "def fibonacci(n):\n", "Water boils at", "The opposite of hot is",
    "1 2 3 4 5", "My favourite animal is the", "In the year 1492,", "To be or not to be,", "The largest planet is",
    "import numpy as np\n", "Dear Sir or Madam,", "A recipe for bread:", "Photosynthesis is", "Das Wetter ist heute",
    "She opened the door and", "The quick brown fox", "E = mc", "Q: What is 2 + 2?\nA:", "<p>Hello",
)  # fmt: skip


def request_of(folder: Path, target: Path, **parameters: str) -> ConvertRequest:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    target.mkdir(exist_ok=True)
    return ConvertRequest(
        model="m",
        files=tuple(
            LocalFile(role="weights", path=str(file), name=file.relative_to(folder).as_posix()) for file in files
        ),
        folder=str(target),
        parameters=parameters,
    )


def converted(folder: Path, target: Path, **parameters: str) -> tuple[Path, ConvertResult]:
    shares: list[float] = []
    result = convert(request_of(folder, target, **parameters), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    return target / result.files[0].path, result


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"num_hidden_layers": 2**31 - 1}, InvalidModelFile, "no tensor 'model.layers.1.input_layernorm.weight'"),
        ({"num_hidden_layers": 0}, InvalidModelFile, "num_hidden_layers is '0' instead of a whole number"),
        ({"head_dim": 2**30}, InvalidModelFile, "4 heads of 1073741824 cannot share a width of 64"),
        ({"head_dim": 62}, InvalidModelFile, "64 rows of Q or K are not 4 heads of 62"),
        ({"num_attention_heads": 3}, InvalidModelFile, "3 heads of 21 cannot share a width of 64"),
        ({"num_key_value_heads": 7}, InvalidModelFile, "32 rows of Q or K are not 7 heads of 16"),
        ({"rms_norm_eps": float("inf")}, InvalidModelFile, "config.json is malformed"),
        ({"max_position_embeddings": None}, InvalidModelFile, "config.json has no 'max_position_embeddings'"),
        ({"tie_word_embeddings": False}, InvalidModelFile, "no tensor 'lm_head.weight'"),
        ({"partial_rotary_factor": 0.5}, Unsupported, "partial_rotary_factor"),
        ({"rope_scaling": {"type": "linear"}}, InvalidModelFile, "config.json: rope_scaling has no 'factor'"),
        ({"rope_scaling": 7}, InvalidModelFile, "rope_scaling is '7' instead of an object"),
        ({"architectures": ["MixtralForCausalLM"]}, Unsupported, "'MixtralForCausalLM' cannot be converted"),
        ({"architectures": []}, Unsupported, "the architecture None cannot be converted"),
    ],
)
def test_hostile_configurations(tmp_path: Path, changed: dict[str, Any], error: type[CorralError], text: str) -> None:
    """Numbers that are absent, absurd, or do not fit the tensors are errors that name them, and come at once."""
    folder = write_tiny_checkpoint(tmp_path / "checkpoint", rope_scaling={"rope_type": "default"})
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changed
    if changed.get("head_dim") == 2**30:
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    path.write_text(json.dumps(config))
    with pytest.raises(error, match=re.escape(text)):
        converted(folder, tmp_path / "out")


def test_what_is_left_over_or_too_large(tmp_path: Path) -> None:
    """Tensors that the architecture does not have are named; numbers beyond F16 are not made infinite."""
    folder = write_tiny_checkpoint(tmp_path / "checkpoint")
    path = folder / "model.safetensors"
    with SafetensorsFiles({path.name: path}) as tensors:
        found = {name: tensors.numbers(name) for name in tensors.names}
    write_safetensors(path, {**found, "model.layers.0.mlp.experts": np.ones(4, np.float32)})
    with pytest.raises(Unsupported, match=r"1 tensors .* model\.layers\.0\.mlp\.experts"):
        converted(folder, tmp_path / "out")
    found["model.embed_tokens.weight"][3, 3] = 1e6
    write_safetensors(path, found)
    with pytest.raises(InvalidModelFile, match=r"'token_embd.weight' has numbers that are too large for F16"):
        converted(folder, tmp_path / "second")
    written, _ = converted(folder, tmp_path / "third", type="BF16")
    with GgufTensors(written) as result:
        assert result.type("token_embd.weight") == "BF16"
        assert result.type("output_norm.weight") == "F32"
        assert abs(result.dequantized("token_embd.weight")[3, 3] / 1e6 - 1) < 0.01


def assert_same_models(original: Path, path: Path) -> None:
    """Tensors, hyperparameters and vocabularies are equal."""
    with GgufTensors(original) as ours, GgufTensors(path) as theirs:
        assert sorted(theirs.names) == sorted(ours.names)
        for name in ours.names:
            assert (theirs.type(name), theirs.shape(name)) == (ours.type(name), ours.shape(name))
            assert np.array_equal(theirs.blocks(name, 0, 1 << 30), ours.blocks(name, 0, 1 << 30)), name
        expected = {key: value for key, value in ours.pairs.items() if not key.startswith(("tokenizer.", "general."))}
        assert {key: theirs.pairs.get(key) for key in expected} == expected
        for key in ("tokenizer.chat_template", "general.architecture", "general.file_type"):
            assert theirs.pairs.get(key) == ours.pairs.get(key)
    before, after = read_vocabulary(original), read_vocabulary(path)
    assert before is not None
    assert after is not None
    assert (after.texts, after.merges, after.pre) == (before.texts, before.merges, before.pre)
    assert (after.kinds, after.named, after.add_bos) == (before.kinds, before.named, before.add_bos)


def texts(folder: Path, path: Path, prompts: Sequence[str], count: int) -> list[str]:
    """What the model says after these prompts, greedily."""
    options = {"temperature": 0, "num_predict": count, "num_ctx": 256}
    with Corral(models=folder, config="") as corral:
        corral.import_model(path, name="m")
        return [corral.generate("m", prompt, raw=True, options=options).text for prompt in prompts]


@pytest.mark.native
def test_a_llama_comes_back_bit_for_bit(shallow: Callable[[str], Path], tmp_path: Path) -> None:
    """A GGUF that is written as a checkpoint in three files, and converted, has the same tensors and keys again."""
    original = shallow("F16")
    checkpoint = write_llama_checkpoint(original, tmp_path / "checkpoint", dtype="F16", files=3)
    path, result = converted(checkpoint, tmp_path / "out")
    assert (result.quantization, result.context_length) == ("F16", 8192)
    assert_same_models(original, path)


@pytest.mark.native
@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CORRAL_ROUND_TRIP"), reason="the long form only")
@pytest.mark.parametrize("files", [1, 3])
def test_dequantized_smollm2_says_the_same_after_conversion(
    smollm2: Path, requantized: Callable[[str], Path], tmp_path: Path, files: int
) -> None:
    """Dequantized to float32, written as a checkpoint and converted to F16, it has the tensors that llama.cpp's own
    quantizer makes of it, and says the same to 20 prompts."""
    original = requantized("F16")
    checkpoint = write_llama_checkpoint(smollm2, tmp_path / "checkpoint", dtype="F32", files=files)
    path, _ = converted(checkpoint, tmp_path / "out")
    assert_same_models(original, path)
    ours = texts(tmp_path / "ours", path, PROMPTS, 24)
    assert len(set(ours)) > 15
    assert ours == texts(tmp_path / "theirs", original, PROMPTS, 24)

"""LoRA adapters on llama.cpp: the logits of merged weights, and what an adapter must be to be applied."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from corral import Corral
from corral.adapters.converters.safetensors.lora.convert import convert_adapter
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.adapters.engines.llama_cpp.native_context import ContextParams, ContextSize
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.adapters.engines.llama_cpp.quantizing.quantize import quantize
from corral.core.errors import CorralError, InvalidModelFile
from corral.core.specs.converters import ConvertRequest
from corral.core.specs.engines import LocalFile
from tests.checkpoints.converting import converted as converted_checkpoint
from tests.checkpoints.families import decoder_weights
from tests.checkpoints.files import write_checkpoint, write_safetensors
from tests.checkpoints.tiny import llama_config, tokenizer_files
from tests.tiny_llama import write_tiny_llama
from tests.tiny_lora import LAYER, merge, random_factors, write_lora, write_peft

_TOKENS = [1, *range(259, 280)]
Scaled = tuple[Path, float]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "F32", layers=2)


def logits(path: Path, adapters: Sequence[Scaled] = (), tokens: Sequence[int] = _TOKENS) -> np.ndarray:
    """The logits after each token."""
    model = LlamaModel(
        str(path),
        gpu_layers=0,
        main_gpu=None,
        use_mmap=None,
        adapters=[LocalFile(role="adapter", path=str(file), scale=scale) for file, scale in adapters],
        on_progress=lambda share: None,
    )
    params = ContextParams(batch=64, flash_attention=0, kv_cache_type="f32")
    context = LlamaContext(model, params, ContextSize(1, 64), threads=1)
    try:
        batch = Batch(64)
        batch.fill_chunk(list(tokens), 0, 0, last=True)
        batch.wanted[: len(tokens)] = 1
        assert context.decode(batch) == 0
        return np.stack([context.logits(row) for row in range(len(tokens))]).astype(np.float64)
    finally:
        context.close()
        model.close()


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference in relation to the largest logit."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def test_logits_of_merged_weights(tiny: Path, tmp_path: Path) -> None:
    """One adapter, and several with scales, compute what the model computes whose weights NumPy has changed."""
    first = random_factors(tiny, (*LAYER, "output.weight"), seed=1)
    second = random_factors(tiny, ("blk.1.attn_q.weight", "blk.0.ffn_up.weight", "token_embd.weight"), rank=8, seed=2)
    third = random_factors(tiny, LAYER[:2], rank=2, seed=3)
    files = [
        write_lora(tmp_path / "first", first, alpha=8.0),
        write_lora(tmp_path / "second", second, alpha=16.0),
        write_lora(tmp_path / "third", third, alpha=None),
    ]
    for scales in ((1.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.5, -0.25, 1.5)):
        used = [(file, scale) for file, scale in zip(files, scales, strict=True) if scale]
        merged = merge(tiny, tmp_path / "merged", [(first, scales[0] * 2), (second, scales[1] * 2), (third, scales[2])])
        wanted = logits(merged)
        assert distance(logits(tiny, used), wanted) < 1e-3
        assert distance(logits(tiny), wanted) > 0.1


def test_logits_of_quantized_weights(tiny: Path, tmp_path: Path) -> None:
    """The same on weights of Q8_0, as near as these are to the originals."""
    request = ConvertRequest(
        model="tiny",
        files=(LocalFile(role="weights", path=str(tiny)),),
        folder=str(tmp_path),
        parameters={"type": "Q8_0"},
    )
    smaller = tmp_path / quantize(request, lambda share: None).files[0].path
    factors = random_factors(tiny)
    file = write_lora(tmp_path / "adapter", factors, kind="F16")
    merged = logits(merge(tiny, tmp_path / "merged", [(factors, 2.0)]))
    assert distance(logits(smaller, [(file, 1.0)]), merged) < 2 * distance(logits(smaller), logits(tiny))


def converted(folder: Path, base: Path, target: Path) -> Path:
    """The GGUF that an adapter of PEFT becomes for these weights."""
    target.mkdir()
    own = [
        LocalFile(role="adapter" if path.suffix == ".safetensors" else "config", path=str(path), name=path.name)
        for path in folder.iterdir()
    ]
    request = ConvertRequest(
        model="tiny", files=(LocalFile(role="weights", path=str(base)), *own), folder=str(target), parameters={}
    )
    return target / convert_adapter(request, lambda share: None).files[0].path


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({}, (2.0, 1.0)),
        ({"use_rslora": True}, (4.0, 8 / math.sqrt(8))),
        ({"alpha_pattern": {"q_proj": 2, r"layers\.1\.mlp.*": 4.0}}, (2.0, 0.5)),
    ],
)
def test_logits_of_a_converted_adapter(
    tiny: Path, tmp_path: Path, config: dict[str, Any], scales: tuple[float, float]
) -> None:
    """PEFT's factors, with ranks and scales of their own and the rows of Q and K in its order, give merged weights."""
    first = random_factors(tiny, (*LAYER[2:], "output.weight", "token_embd.weight"), rank=4, seed=1)
    second = random_factors(tiny, ("blk.1.ffn_up.weight", "blk.1.ffn_down.weight"), rank=8, seed=2)
    rotated = random_factors(tiny, LAYER[:2], rank=4, seed=3)
    file = converted(write_peft(tmp_path / "peft", {**first, **second, **rotated}, config), tiny, tmp_path / "made")
    q, k = ({stem: rotated[stem]} for stem in LAYER[:2])
    q_scale = 0.5 if "alpha_pattern" in config else scales[0]
    merged = merge(tiny, tmp_path / "merged", [(first, scales[0]), (second, scales[1]), (q, q_scale), (k, scales[0])])
    assert distance(logits(tiny, [(file, 1.0)]), logits(merged)) < 1e-3
    halved = merge(
        tiny,
        tmp_path / "halved",
        [(one, scale / 2) for one, scale in ((first, scales[0]), (second, scales[1]), (q, q_scale), (k, scales[0]))],
    )
    assert distance(logits(tiny, [(file, 0.5)]), logits(halved)) < 1e-3


@pytest.mark.parametrize("generation", [2, 3])
def test_logits_of_an_adapter_for_qwen(generation: int, tmp_path: Path) -> None:
    """The rows of Q and K stay as PEFT has them, unlike those of a llama."""
    config = llama_config(64, 1, 264) | {
        "architectures": [f"Qwen{generation}ForCausalLM"],
        "model_type": f"qwen{generation}",
    }
    checkpoint = write_checkpoint(tmp_path / "qwen", config, decoder_weights(config), tokenizer_files())
    base = converted_checkpoint(checkpoint, tmp_path / "base")
    factors = random_factors(base)
    file = converted(write_peft(tmp_path / "peft", factors, heads=None), base, tmp_path / "made")
    tokens = range(1, 20)
    merged = logits(merge(base, tmp_path / "merged", [(factors, 2.0)]), tokens=tokens)
    assert distance(logits(base, [(file, 1.0)], tokens), merged) < 1e-3
    assert distance(logits(base, tokens=tokens), merged) > 0.1


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA', and only LORA"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head']"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        ({"lora_alpha": "8"}, "lora_alpha is '8' instead of a number"),
        ({"alpha_pattern": {"(": 1}}, "in alpha_pattern is no pattern"),
    ],
)
def test_adapters_that_are_not_converted(tiny: Path, tmp_path: Path, config: dict[str, Any], text: str) -> None:
    """What llama.cpp cannot apply is refused, under PEFT's name for it."""
    folder = write_peft(tmp_path / "peft", random_factors(tiny, LAYER[:1]), config)
    with pytest.raises(CorralError, match=re.escape(text)):
        converted(folder, tiny, tmp_path / "made")


def test_a_checkpoint_adapter_for_other_weights(tiny: Path, tmp_path: Path) -> None:
    """Modules, layers and shapes that the weights do not have, halves of pairs and unknown tensors are named."""
    factors = random_factors(tiny, LAYER[:1])
    pair = factors[LAYER[0]]
    for number, (changed, text) in enumerate(
        (
            (
                {"blk.7.attn_q.weight": pair},
                "it changes model.layers.7.self_attn.q_proj, and they have no blk.7.attn_q",
            ),
            ({LAYER[0]: (pair[0][:, :128], pair[1])}, "have the shapes [4, 128] and [256, 4], but blk.0.attn_q.weight"),
            ({LAYER[0]: (pair[0][:3], pair[1])}, "have the shapes [3, 256] and [256, 4]"),
        )
    ):
        folder = write_peft(tmp_path / f"peft{number}", changed)
        with pytest.raises(InvalidModelFile, match=re.escape(text)):
            converted(folder, tiny, tmp_path / f"made{number}")
    folder = write_peft(tmp_path / "odd", factors)
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    for number, (tensors, text) in enumerate(
        (
            ({f"{name}.lora_A.weight": pair[0]}, "has only one of two factors of model.layers.0.self_attn.q_proj"),
            ({f"{name}.lora_magnitude_vector": pair[1][:, 0]}, "(DoRA)"),
            ({"base_model.model.lm_head.weight": pair[0]}, "(not a factor of a LoRA)"),
            ({"x.lora_A.weight": pair[0], "x.lora_B.weight": pair[1]}, "the adapter changes x, which llama is not"),
        )
    ):
        write_safetensors(folder / "adapter_model.safetensors", tensors)
        with pytest.raises(CorralError, match=re.escape(text)):
            converted(folder, tiny, tmp_path / f"odd{number}")


def test_a_model_with_an_adapter_of_peft(tiny: Path, tmp_path: Path) -> None:
    """ADAPTER takes the folder that PEFT saves; the model says what it says with merged weights, in every engine's
    process, and stays so after a restart."""
    factors = random_factors(tiny)
    folder = write_peft(tmp_path / "peft", factors, {"base_model_name_or_path": "someone/tiny"})
    merged = merge(tiny, tmp_path / "merged.gguf", [(factors, 1.0)])
    events: list[str] = []
    options = {"temperature": 0, "num_predict": 12, "num_ctx": 128, "num_thread": 1}
    with Corral(models=tmp_path / "store", config="", options=options) as corral:
        corral.create("plain", files=tiny)
        corral.create("merged", files=merged)
        made = corral.create_from_modelfile(
            "tuned", f"FROM plain\nADAPTER {folder} 0.5", on_progress=lambda event: events.append(event.status)
        )
        assert events[0] == "converting adapter"
        [adapter] = made.files_of("adapter")
        assert (adapter.scale, f"creating new layer {adapter.digest}" in events) == (0.5, True)
        texts = {name: corral.generate(name, "hello there", raw=True).text for name in ("plain", "merged", "tuned")}
        assert texts["tuned"] == texts["merged"] != texts["plain"]
        vectors = {name: np.array(corral.embed(name, ["a dog"]).vectors[0]) for name in texts}
        assert (
            np.abs(vectors["tuned"] - vectors["merged"]).max()
            < 1e-3
            < np.abs(vectors["tuned"] - vectors["plain"]).max()
        )
        (folder / "adapter_model.safetensors").write_bytes(b"short")
        with pytest.raises(InvalidModelFile, match=r"adapter_model\.safetensors"):
            corral.create("broken", "plain", adapters=folder)
        assert {model.name.model for model in corral.list()} == {"plain", "merged", "tuned"}

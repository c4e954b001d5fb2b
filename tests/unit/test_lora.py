"""LoRA adapters on llama.cpp: the logits of merged weights, and what an adapter must be to be applied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.adapters.engines.llama_cpp.native_context import ContextParams, ContextSize
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.adapters.engines.llama_cpp.quantizing.quantize import quantize
from corral.core.specs.converters import ConvertRequest
from corral.core.specs.engines import LocalFile
from tests.tiny_llama import write_tiny_llama
from tests.tiny_lora import LAYER, merge, random_factors, write_lora

_TOKENS = [1, *range(259, 280)]
Scaled = tuple[Path, float]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "F32", layers=2)


def logits(path: Path, adapters: Sequence[Scaled] = ()) -> np.ndarray:
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
        batch.fill_chunk(_TOKENS, 0, 0, last=True)
        batch.wanted[: len(_TOKENS)] = 1
        assert context.decode(batch) == 0
        return np.stack([context.logits(row) for row in range(len(_TOKENS))]).astype(np.float64)
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

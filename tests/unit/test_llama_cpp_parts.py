"""Parts of the llama.cpp engine that need no weights: options, prefixes, the thread tuner."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from corral.adapters.engines.llama_cpp.context_settings import ContextSettings
from corral.adapters.engines.llama_cpp.filler_rows import filler_rows, lone_rows
from corral.adapters.engines.llama_cpp.memory_needs import compute_bytes
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.adapters.engines.llama_cpp.spec import SPEC, LlamaCppOptions
from corral.core.errors import InvalidOption
from corral.core.models.digests import Digest
from corral.core.models.model import ModelFile, ModelMetadata, StoredModel
from corral.core.models.names import parse_name
from corral.core.scheduling.load_options import typed_load_options

GB = 1_000_000_000


def record(size_bytes: int = GB) -> StoredModel:
    digest = Digest("sha256:" + "0" * 64)
    weights = ModelFile(role="weights", media_type="x", digest=digest, size_bytes=size_bytes)
    return StoredModel(name=parse_name("m"), digest=digest, size_bytes=size_bytes, modified_at=0.0, files=(weights,))


def metadata(**fields: object) -> ModelMetadata:
    base: dict[str, object] = {
        "format": "gguf",
        "architecture": "llama",
        "file_type": "Q4_1",
        "parameter_count": 1,
        "tensor_bytes": GB,
        "tensor_types": {"Q4_1": 10},
        "block_count": 30,
        "context_length": 8192,
        "kv_bytes_per_token": 1000,
    }
    return ModelMetadata(**{**base, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("busy", "pair_rows", "fillers"),
    [
        ([0, 1, 2], False, []),
        ([0, 2], False, [1]),
        ([0, 3], False, []),
        ([0], False, []),
        ([0], True, [1]),
        ([7], True, [6]),
        ([0, 3], True, [1, 4]),
        ([0, 2], True, [1]),
        ([2, 4, 7], True, [3, 6]),
    ],
)
def test_idle_rows(busy: list[int], pair_rows: bool, fillers: list[int]) -> None:
    """Gaps of one are filled; if rows are computed in pairs, a lone one gets a neighbour."""
    assert filler_rows(busy, 8, pair_rows=pair_rows) == fillers


@pytest.mark.parametrize(
    ("busy", "full", "pair_rows", "fillers", "lone"),
    [
        ([0, 2], [1], False, [], [0, 2]),
        ([0, 2], [1], True, [3], [0]),
        ([2, 5], [1, 3], True, [6], [2]),
        ([2], [3], True, [1], []),
        ([0, 1], [2], True, [], []),
        ([7], [6], True, [], [7]),
    ],
)
def test_full_streams_are_not_idle_rows(
    busy: list[int], full: list[int], pair_rows: bool, fillers: list[int], lone: list[int]
) -> None:
    """A stream without room fills no gap, and another neighbour is taken; rows that have none are told."""
    assert filler_rows(busy, 8, pair_rows=pair_rows, full=full) == fillers
    assert lone_rows(busy, fillers) == lone


def test_a_single_stream_has_no_neighbour() -> None:
    """With one stream there are no idle rows to add."""
    assert filler_rows([0], 1, pair_rows=True) == []


@pytest.mark.parametrize(
    ("loaded", "wanted", "fits"),
    [
        ({}, {}, True),
        ({"num_ctx": 8192}, {}, True),
        ({"num_ctx": 8192}, {"num_ctx": 2048}, True),
        ({"num_ctx": 512}, {}, False),
        ({}, {"num_ctx": 8192}, False),
        ({"num_parallel": 8}, {"num_parallel": 2}, True),
        ({"num_parallel": 2}, {"num_parallel": 8}, False),
        ({"num_gpu": 0}, {}, True),
        ({}, {"num_gpu": 0}, False),
        ({}, {"kv_cache_type": "q8_0"}, False),
    ],
)
def test_what_needs_a_reload(loaded: dict[str, object], wanted: dict[str, object], fits: bool) -> None:
    """A smaller context or fewer streams than loaded fit; another cache type or placement does not."""
    assert SPEC.fits is not None
    assert SPEC.fits(LlamaCppOptions(**loaded), LlamaCppOptions(**wanted)) is fits  # type: ignore[arg-type]


def test_only_gguf_models_match() -> None:
    """GGUF weights match, other formats and upstream models do not, each with a reason."""
    assert SPEC.match(record(), metadata(), LlamaCppOptions()).score > 0
    for read in (metadata(format="onnx"), None):
        other = SPEC.match(record(), read, LlamaCppOptions())
        assert other.score == 0
        assert other.reason


def test_the_match_tells_about_exactness() -> None:
    """The reason says whether texts depend on what else runs, and names the weights types that cause it."""
    assert "do not depend" in SPEC.match(record(), metadata(), LlamaCppOptions()).reason
    quantized = metadata(tensor_types={"Q4_K": 5, "F32": 1})
    assert "Q4_K" in SPEC.match(record(), quantized, LlamaCppOptions()).reason
    assert "do not depend" in SPEC.match(record(), quantized, LlamaCppOptions(repack=False)).reason


def test_the_estimate_counts_weights_and_cache() -> None:
    """The estimate is the weights plus the cache of the requested context, which never exceeds the training context."""

    def estimate(**options: object) -> int:
        return SPEC.estimate(record(), metadata(), LlamaCppOptions(**options))["cpu"]  # type: ignore[arg-type]

    assert estimate() >= GB + 4096 * 1000
    assert estimate(num_ctx=8192) - estimate(num_ctx=4096) > 4096 * 1000  # attention grows as well
    assert estimate(num_ctx=1_000_000) == estimate(num_ctx=8192)
    assert estimate(num_parallel=4) - estimate() == 3 * 4096 * 1000
    assert estimate(kv_cache_type="q8_0") < estimate(row_attention=True) < estimate()


@pytest.mark.parametrize(
    ("tokens", "batch", "heads", "vocabulary", "width", "windows", "measured_mib"),
    [
        (4096, 512, 9, 49_152, 576, False, 99.4),
        (60_000, 512, 9, 49_152, 576, False, 1181.4),
        (60_000, 512, 4, 262_144, 640, True, 714.8),
        (4096, 32, 4, 262_144, 640, True, 32.2),
    ],
)
def test_compute_buffers_are_estimated(
    tokens: int, batch: int, heads: int, vocabulary: int, width: int, windows: bool, measured_mib: float
) -> None:
    """The estimate is what llama.cpp reported for SmolLM2 135M and Gemma 3 270M, within a tenth."""
    estimate = compute_bytes(
        num_ctx=tokens,
        batch=batch,
        outputs=batch,
        heads=heads,
        vocabulary=vocabulary,
        width=width,
        windows=windows,
        flash_attention=False,
    )
    assert 0.99 < estimate / 2**20 / measured_mib < 1.1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kv_cache_type": "q8_0", "flash_attention": False}, {"kv_cache_type q8_0", "flash_attention is false"}),
        ({"kv_cache_type": "Q4_0", "flash_attention": False}, {"kv_cache_type q4_0", "flash_attention is false"}),
        ({"row_attention": True, "flash_attention": False}, {"row_attention", "flash_attention is false"}),
        ({"row_attention": True, "kv_cache_type": "f32"}, {"row_attention", "kv_cache_type is f32"}),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, object], named: set[str]) -> None:
    """They are refused without the weights, with both options and the remedy."""
    with pytest.raises(InvalidOption, match="load options of the llama-cpp engine: ") as caught:
        typed_load_options(SPEC, options)
    assert all(one in caught.value.message for one in named)
    assert "unset" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    "options",
    [
        {"kv_cache_type": "q8_0"},
        {"kv_cache_type": "q8_0", "flash_attention": True, "row_attention": True},
        {"kv_cache_type": "f32", "flash_attention": False},
        {"kv_cache_type": "bf16", "flash_attention": False},
        {"row_attention": False, "flash_attention": False},
    ],
)
def test_options_that_go_together(options: dict[str, object]) -> None:
    """Only flash attention computes with a quantized cache, and row by row; without either, any combination is fine."""
    assert typed_load_options(SPEC, options) == LlamaCppOptions(**options)  # type: ignore[arg-type]


def test_types_are_read_in_any_case() -> None:
    """So are those of `corral quantize`; an unknown one is refused with a list."""
    options = typed_load_options(SPEC, {"kv_cache_type": "Q8_0", "reencode": "q4_k_m"})
    assert options == LlamaCppOptions(kv_cache_type="q8_0", reencode="Q4_K_M")
    with pytest.raises(InvalidOption, match=r"'q9'.*kv_cache_type") as caught:
        typed_load_options(SPEC, {"kv_cache_type": "q9"})
    assert caught.value.remedy == "choose one of f16, f32, bf16, q8_0, q5_1, q4_0"


@pytest.mark.parametrize(
    ("options", "one_type", "gpu", "types", "by_row"),
    [
        ({}, False, False, ("f16", "f16"), False),
        ({"row_attention": True}, False, False, ("f16", "bf16"), True),
        ({"row_attention": True}, True, False, ("bf16", "bf16"), True),
        ({"row_attention": True}, False, True, ("f16", "f16"), False),
        ({"flash_attention": True}, False, False, ("f16", "f16"), False),
        ({"flash_attention": True, "kv_cache_type": "bf16"}, False, False, ("bf16", "bf16"), True),
        ({"kv_cache_type": "q8_0"}, False, False, ("q8_0", "q8_0"), True),
    ],
)
def test_types_of_keys_and_values(
    options: dict[str, object], one_type: bool, gpu: bool, types: tuple[str, str], by_row: bool
) -> None:
    """Attention by row needs values of another type than the keys, or types that have one kernel; models that need one
    type for both get such a type. On a GPU nothing changes."""
    model = SimpleNamespace(
        trained_context=2048,
        pooling=None,
        has_decoder=True,
        is_causal=True,
        needs_one_kv_type=one_type,
        kv_values_per_token=100,
        scales_positions=lambda cells: False,
    )
    settings = ContextSettings(cast(LlamaModel, model), LlamaCppOptions(**options), gpu=gpu)  # type: ignore[arg-type]
    params = settings.params()
    assert (params.kv_cache_type, params.value_type) == types
    assert settings.attends_by_row is by_row

"""Every family of checkpoints: what llama.cpp computes after the conversion is what NumPy computes from the original.

The forward passes are in `tests.reference_models`. Tokens are compared with Hugging Face's tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from tokenizers import Tokenizer

from corral.adapters.engines.llama_cpp import context_settings
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.adapters.engines.llama_cpp.native_context import ContextParams, ContextSize
from corral.adapters.engines.llama_cpp.tokenizer import LlamaTokenizer
from corral.core.requests.outputs import EngineEmbedded
from corral.core.requests.prompts import TextPart, TokensPart
from corral.core.requests.requests import EmbedRequest
from tests.checkpoints.byte_level import LLAMA3, QWEN2, byte_level_tokenizer
from tests.checkpoints.converting import converted, loaded
from tests.checkpoints.families import decoder_weights, gemma_weights, phi3_weights
from tests.checkpoints.files import Floats, write_checkpoint
from tests.checkpoints.sentencepiece import sentence_pieces
from tests.checkpoints.texts import HARD_TEXTS
from tests.contracts.llama_engines import loaded_engine
from tests.reference_models import gemma2, gemma3, llama, phi3
from tests.reference_models.parts import Array

Forward = Callable[[Mapping[str, Any], Mapping[str, Floats], Sequence[int]], Array]

_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
_LLAMA = {
    **_SMALL,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "tie_word_embeddings": False,
}


def of_llama(**changes: Any) -> dict[str, Any]:
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **_LLAMA, **changes}


def of_qwen(generation: int, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": [f"Qwen{generation}ForCausalLM"],
        "model_type": f"qwen{generation}",
        **_LLAMA,
        "tie_word_embeddings": True,
        **changes,
    }


_GEMMA = {
    **_SMALL,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 512,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "sliding_window": 7,
}


def of_gemma2(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        **_GEMMA,
        "rope_theta": 700.0,
        "query_pre_attn_scalar": 12,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        **changes,
    }


def of_gemma3(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        **_GEMMA,
        "num_hidden_layers": 7,
        "rope_theta": 7000.0,
        "rope_local_base_freq": 300.0,
        "query_pre_attn_scalar": 12,
        "sliding_window_pattern": 6,
        **changes,
    }


def of_phi3(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        **_LLAMA,
        "original_max_position_embeddings": 256,
        "sliding_window": None,
        **changes,
    }


def computed(path: Path, tokens: Sequence[int], cells: int) -> Array:
    """The logits of every position, by llama.cpp with everything in float32."""
    model = loaded(path)
    params = ContextParams(batch=512, flash_attention=0, kv_cache_type="f32")
    context = LlamaContext(model, params, ContextSize(1, cells), threads=1)
    try:
        batch = Batch(512)
        batch.fill_chunk(list(tokens), 0, 0, last=True)
        batch.wanted[: len(tokens)] = 1
        assert context.decode(batch) == 0
        return np.stack([context.logits(row) for row in range(len(tokens))]).astype(np.float64)
    finally:
        context.close()
        model.close()


def furthest(found: Array, expected: Array) -> float:
    """The largest relative error of a position: the length of the difference, as a share of the length."""
    return float((np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


class Case:
    """A checkpoint of a family, and how NumPy computes it. `lengths` are numbers of tokens, with the cells of the
    context in which llama.cpp computes them."""

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Callable[..., dict[str, Floats]],
        forward: Forward,
        tokenizer: Mapping[str, Any],
        *,
        settings: Mapping[str, Any] | None = None,
        rows: int = 8,
        others: Mapping[str, bytes] | None = None,
        files: int = 1,
    ) -> None:
        texts = {**tokenizer["model"]["vocab"], **{one["content"]: 0 for one in tokenizer["added_tokens"]}}
        self.config = {**config, "vocab_size": len(texts) + rows}  # as in many models, there are rows without a token
        self.tensors = weights(self.config)
        self.forward = forward
        self.tokenizer = tokenizer
        own = {"tokenizer.json": tokenizer, "tokenizer_config.json": settings or {}}
        self.others: dict[str, Any] = own | dict(others or {})
        self.files = files

    def write(self, folder: Path) -> Path:
        return write_checkpoint(folder, self.config, self.tensors, self.others, files=self.files)


_LLAMA3_TOKENIZER = byte_level_tokenizer(
    LLAMA3, ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], bos="<|begin_of_text|>", ignore_merges=True
)
_LLAMA3_SETTINGS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
_QWEN_TOKENIZER = byte_level_tokenizer(QWEN2, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
_QWEN_SETTINGS = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}
_PIECES = sentence_pieces(["<unk>", "<s>", "</s>"], prefix=True, bos="<s>", added=["<|end|>", "<|user|>"])
_GEMMA_PIECES = sentence_pieces(
    ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
    prefix=False,
    bos="<bos>",
    defined=["\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<b>"],
)
_SPM_SETTINGS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_GEMMA_SETTINGS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": {"content": "<pad>"}}
_LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

CASES = {
    "llama": Case(
        of_llama(rope_scaling=_LLAMA3_SCALING, head_dim=16),
        decoder_weights,
        llama.logits,
        _LLAMA3_TOKENIZER,
        settings=_LLAMA3_SETTINGS,
        files=3,
    ),
    "qwen2": Case(of_qwen(2), decoder_weights, llama.logits, _QWEN_TOKENIZER, settings=_QWEN_SETTINGS),
    "qwen2 with YaRN": Case(
        of_qwen(2, rope_scaling=_YARN), decoder_weights, llama.logits, _QWEN_TOKENIZER, settings=_QWEN_SETTINGS
    ),
    "qwen3 with another YaRN": Case(
        of_qwen(3, rope_scaling={**_YARN, "attention_factor": 0.8, "beta_fast": 16.0, "beta_slow": 2.0}),
        decoder_weights,
        llama.logits,
        _QWEN_TOKENIZER,
        settings=_QWEN_SETTINGS,
    ),
    "qwen3": Case(of_qwen(3, head_dim=12), decoder_weights, llama.logits, _QWEN_TOKENIZER, settings=_QWEN_SETTINGS),
    "mistral": Case(
        {**of_llama(), "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None},
        decoder_weights,
        llama.logits,
        _PIECES.json(),
        settings=_SPM_SETTINGS,
    ),
    "gemma2": Case(
        of_gemma2(),
        gemma_weights,
        gemma2.logits,
        _GEMMA_PIECES.json(),
        settings=_GEMMA_SETTINGS,
        others={"tokenizer.model": _GEMMA_PIECES.model()},
    ),
    "gemma2 of 27B": Case(
        of_gemma2(num_hidden_layers=46, query_pre_attn_scalar=9, final_logit_softcapping=None),
        gemma_weights,
        gemma2.logits,
        _GEMMA_PIECES.json(),
        settings=_GEMMA_SETTINGS,
    ),
    "gemma3": Case(
        of_gemma3(rope_scaling={"rope_type": "linear", "factor": 8.0}),
        gemma_weights,
        gemma3.logits,
        _GEMMA_PIECES.json(),
        settings=_GEMMA_SETTINGS,
        files=2,
    ),
    "gemma3 with other layers": Case(
        of_gemma3(
            num_hidden_layers=3,
            query_pre_attn_scalar=20,
            layer_types=["full_attention", "sliding_attention", "sliding_attention"],
        ),
        gemma_weights,
        gemma3.logits,
        _GEMMA_PIECES.json(),
        settings=_GEMMA_SETTINGS,
    ),
    "phi3": Case(
        of_phi3(),
        phi3_weights,
        phi3.logits,
        _PIECES.json(),
        settings=_SPM_SETTINGS,
        others={"tokenizer.model": _PIECES.model()},
    ),
    "phi3 with long positions": Case(
        of_phi3(
            rope_scaling={"type": "longrope", "short_factor": [1.0, 1.1, 1.3], "long_factor": [1.5, 3.0, 7.5]},
            partial_rotary_factor=0.75,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
        ),
        phi3_weights,
        phi3.logits,
        _LLAMA3_TOKENIZER,
        settings=_LLAMA3_SETTINGS,
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def checkpoint(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return case.write(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def gguf(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(checkpoint, tmp_path_factory.mktemp("gguf"))


def some_tokens(case: Case, length: int) -> list[int]:
    tokens: list[int] = np.random.default_rng(length).integers(0, case.config["vocab_size"], length).tolist()
    return tokens


@pytest.mark.parametrize("length", [1, 5, 70])
def test_logits(case: Case, gguf: Path, length: int) -> None:
    """They are those of the forward pass, at lengths within and beyond every window."""
    tokens = some_tokens(case, length)
    config = {**case.config, "hidden_activation": "gelu_table"}  # of the Gemmas: what the table loses is not ours
    expected = case.forward(config, case.tensors, tokens)
    assert furthest(computed(gguf, tokens, 256), expected) < 1e-3


def test_long_positions(tmp_path: Path) -> None:
    """Phi-3 has other factors where the context is longer than the one that it was trained with first."""
    case = CASES["phi3 with long positions"]
    gguf = converted(case.write(tmp_path / "checkpoint"), tmp_path / "gguf")
    tokens = some_tokens(case, 300)
    expected = phi3.logits(case.config, case.tensors, tokens, long=True)
    assert furthest(computed(gguf, tokens, 512), expected) < 1e-3
    assert furthest(computed(gguf, tokens, 512), case.forward(case.config, case.tensors, tokens)) > 0.1


def test_long_positions_do_not_depend_on_what_came_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a context may become longer than the one that the model was trained with first, it has its full size from
    the start; so the same text always has the same vector, before and after a longer one."""
    case = Case(
        {**CASES["phi3 with long positions"].config, "original_max_position_embeddings": 600},
        phi3_weights,
        phi3.logits,
        _LLAMA3_TOKENIZER,
        settings=_LLAMA3_SETTINGS,
    )
    gguf = converted(case.write(tmp_path / "checkpoint"), tmp_path / "gguf")
    monkeypatch.setattr(context_settings, "_CHEAP_BYTES", 0)  # otherwise so small a model begins with all its cells
    vectors, streams = [], []
    for num_ctx in (1024, 512):
        engine = loaded_engine(gguf, options={"num_ctx": num_ctx})
        short, long = some_tokens(case, 20), some_tokens(case, num_ctx // 2 + 50)
        for tokens in (short, long, short):
            prompt = (TokensPart(ids=tuple(tokens)),)
            engine.add_request(1, EmbedRequest(inputs=(prompt,)), None)
            while engine.has_unfinished_requests():
                answers = [output for _, output in engine.step()]
                vectors += [one.vectors.float32 for one in answers if isinstance(one, EngineEmbedded)]
        streams.append(engine.info.details["streams"])
        engine.close()
    assert vectors[0] == vectors[2] != vectors[3] == vectors[5]
    assert streams[0].partition(" x ")[2].startswith("1024 ")


def test_tokens(case: Case, gguf: Path) -> None:
    """They are those of the checkpoint's own tokenizer."""
    reference = Tokenizer.from_str(json.dumps(case.tokenizer))
    reference.no_truncation()
    model = loaded(gguf)
    try:
        tokenizer = LlamaTokenizer(model)
        for text in HARD_TEXTS:
            assert list(tokenizer.tokens((TextPart(text=text),))) == reference.encode(text).ids, text
    finally:
        model.close()

"""Writes tiny cross-encoders with random weights as GGUF, and computes their scores with NumPy alone.

The same models in ONNX: `tests.tiny_onnx_cross_encoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corral.adapters.formats.gguf.writer import NewTensor, gguf_header, padding
from tests.checkpoints.families import bert_weights
from tests.checkpoints.files import Floats
from tests.reference_models.bert import relevance

__all__ = (
    "CONFIG",
    "CONTEXT",
    "DOCUMENTS",
    "QUERY",
    "SPECIAL",
    "WORDS",
    "cross_encoder_weights",
    "pair_ids",
    "reference_scores",
    "write_tiny_cross_encoder",
)

CONTEXT = 128
"""The most tokens of a query and a document together."""

QUERY = "which city is the capital of france"
_TEXT = """
    a about and are bank bear berlin big by capital cat city cold day dog eat europe farm field food france germany
    green has hello horse house in is it italy know largest live london long many moon more near north of old on one
    paris people river rome sea seine small south spain sun that the there to town two water what where which with
    world year
"""
WORDS = _TEXT.split()
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CLS, _SEP, _UNKNOWN = 2, 3, 1
_TOKENS = (*SPECIAL, *(f"▁{word}" for word in WORDS))
_IDS = {word: len(SPECIAL) + number for number, word in enumerate(WORDS)}

DOCUMENTS = tuple(
    " ".join(WORDS[(7 * number + step * (number % 5 + 1)) % len(WORDS)] for step in range(3 + number % 17))
    for number in range(100)
)
"""A hundred texts of 3 to 19 words, no two alike."""

CONFIG: dict[str, Any] = {
    "vocab_size": len(_TOKENS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu_table",
}
_PARTS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "pooler.dense": "cls",
    "classifier": "cls.output",
}
_LAYER_PARTS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def write_tiny_cross_encoder(
    path: Path, *, seed: int = 0, labels: int = 1, says_so: bool = True, eos: bool = False
) -> Path:
    """A BERT with a classifier of so many `labels`, or none, at `path`. Its tokens are whole words.

    Without `says_so`, the file does not say how it pools, as conversions of 2024 do not. With `eos`, its vocabulary
    ends a text with EOS, which is ``[SEP]``, as conversions of 2025 do.
    """
    tensors, data = [], []
    for name, values in cross_encoder_weights(seed, labels).items():
        if not labels and name.startswith(("pooler", "classifier")):
            continue
        raw = values.astype("<f4").tobytes()
        tensors.append(NewTensor(_gguf_name(name), "F32", values.shape[::-1], len(raw)))
        data.append(raw + bytes(padding(len(raw))))
    own = {
        "block_count": CONFIG["num_hidden_layers"],
        "context_length": CONTEXT,
        "embedding_length": CONFIG["hidden_size"],
        "feed_forward_length": CONFIG["intermediate_size"],
        "attention.head_count": CONFIG["num_attention_heads"],
        "attention.layer_norm_epsilon": CONFIG["layer_norm_eps"],
        "attention.causal": False,
        **({"pooling_type": 4} if says_so else {}),
        **({"classifier.output_labels": [f"label {number}" for number in range(labels)]} if labels > 1 else {}),
    }
    pairs = {
        "general.architecture": "bert",
        "general.name": "Tiny cross-encoder",
        "general.file_type": 0,
        **{f"bert.{key}": value for key, value in own.items()},
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": list(_TOKENS),
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * len(WORDS),
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.bos_token_id": _CLS,
        "tokenizer.ggml.cls_token_id": _CLS,
        "tokenizer.ggml.eos_token_id": _SEP,
        "tokenizer.ggml.seperator_token_id": _SEP,
        "tokenizer.ggml.unknown_token_id": _UNKNOWN,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.mask_token_id": 4,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": eos,
        "tokenizer.ggml.add_sep_token": not eos,
    }
    path.write_bytes(gguf_header(3, pairs, tensors) + b"".join(data))
    return path


def pair_ids(query: str, document: str) -> list[int]:
    """``[CLS] query [SEP] document [SEP]``, as BERT was trained; a word that it does not know is ``[UNK]``."""
    first, second = ([_IDS.get(word, _UNKNOWN) for word in text.split()] for text in (query, document))
    return [_CLS, *first, _SEP, *second, _SEP]


def reference_scores(query: str, documents: Sequence[str], *, seed: int = 0) -> list[float]:
    """The scores of the model with this seed, from the same weights, in float64."""
    weights = cross_encoder_weights(seed, 1)
    return [float(relevance(CONFIG, weights, pair_ids(query, document))[0]) for document in documents]


def cross_encoder_weights(seed: int, labels: int) -> dict[str, Floats]:
    """By the names of ``BertForSequenceClassification``. The classifier's are larger, so that scores differ."""
    random = np.random.default_rng(1000 + seed)
    width = CONFIG["hidden_size"]
    return bert_weights(CONFIG, seed) | {
        "classifier.weight": random.normal(0, 0.5, (labels, width)).astype(np.float32),
        "classifier.bias": random.normal(0, 0.5, labels).astype(np.float32),
    }


def _gguf_name(name: str) -> str:
    part, ending = name.rsplit(".", 1)
    if part in _PARTS:
        return f"{_PARTS[part]}.{ending}"
    layer, own = part.removeprefix("encoder.layer.").split(".", 1)
    return f"blk.{layer}.{_LAYER_PARTS[own]}.{ending}"

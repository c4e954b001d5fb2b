"""BERT as a sentence encoder: every position sees all others, and a sentence's vector is pooled from theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from corral.adapters.converters.safetensors.checkpoint import Checkpoint
from corral.adapters.converters.safetensors.config import Config
from corral.adapters.converters.safetensors.families.pooling import pooling_type
from corral.adapters.converters.safetensors.family import PlannedTensor
from corral.adapters.converters.safetensors.tokenizers.choice import tokenizer_keys
from corral.core.errors import InvalidModelFile, Unsupported

__all__ = ("BERT", "BertFamily")

_PREFIX = "bert."
_EMBEDDINGS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
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
_ENDINGS = {"weight": "gamma", "bias": "beta"}  # and what the oldest checkpoints call them in a norm
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh")


class BertFamily:
    """A `CheckpointFamily`. Inputs are as long as ``sentence_bert_config.json`` allows."""

    def keys(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        config = checkpoint.config
        for name, known in (("hidden_act", _ACTIVATIONS), ("position_embedding_type", ("absolute",))):
            if config.text(name, known[0]) not in known:
                raise Unsupported(f"llama.cpp computes bert with {name} {known[0]}, not {config.text(name)!r}")
        own = {
            "block_count": config.count("num_hidden_layers"),
            "context_length": _length(checkpoint),
            "embedding_length": config.count("hidden_size"),
            "feed_forward_length": config.count("intermediate_size"),
            "attention.head_count": config.count("num_attention_heads"),
            "attention.layer_norm_epsilon": config.number("layer_norm_eps", 1e-12),
            "attention.causal": False,
            "pooling_type": pooling_type(checkpoint),
        }
        return {"general.architecture": "bert", **{f"bert.{key}": value for key, value in own.items()}}

    def tensors(self, checkpoint: Checkpoint) -> Iterator[PlannedTensor]:
        length = _length(checkpoint)
        for source, target in _EMBEDDINGS.items():
            for planned in _part(checkpoint, source, target):
                if target == "position_embd":
                    width = checkpoint.tensors.shape(planned.sources[0])[-1]
                    planned = planned._replace(shape=(length, width), rearrange=lambda table: table[:length])
                yield planned._replace(keep_f32=target in ("position_embd", "token_types"))
        for layer in range(checkpoint.config.count("num_hidden_layers")):
            for source, target in _LAYER_PARTS.items():
                yield from _part(checkpoint, f"encoder.layer.{layer}.{source}", f"blk.{layer}.{target}")

    def ignored(self, name: str) -> bool:
        """The heads of other tasks, and the numbers of positions."""
        return name.removeprefix(_PREFIX).startswith(("embeddings.position_ids", "pooler.", "cls."))

    def tokenizer(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        name = _stored_name(checkpoint, "embeddings.word_embeddings", "weight")
        rows = checkpoint.tensors.shape(name)[0] if name else 0
        types = checkpoint.config.count("type_vocab_size", 2)
        return {**tokenizer_keys(checkpoint, rows), "tokenizer.ggml.token_type_count": types}


def _length(checkpoint: Checkpoint) -> int:
    """The most tokens of an input: as many as there are positions, or as the encoder was trained with."""
    positions = checkpoint.config.count("max_position_embeddings")
    stated = Config(checkpoint.optional_json("sentence_bert_config.json"), "sentence_bert_config.json")
    return min(positions, stated.count("max_seq_length", positions))


def _part(checkpoint: Checkpoint, source: str, target: str) -> Iterator[PlannedTensor]:
    for ending in _ENDINGS:
        name = _stored_name(checkpoint, source, ending)
        if name is not None:
            yield PlannedTensor(f"{target}.{ending}", (name,))
        elif ending == "weight":
            raise InvalidModelFile(
                f"the checkpoint has no tensor '{source}.weight'", "check that all of its files are there"
            )


def _stored_name(checkpoint: Checkpoint, part: str, ending: str) -> str | None:
    for name in (f"{part}.{ending}", f"{part}.{_ENDINGS[ending]}"):
        for prefix in ("", _PREFIX):
            if f"{prefix}{name}" in checkpoint.tensors:
                return f"{prefix}{name}"
    return None


BERT = BertFamily()

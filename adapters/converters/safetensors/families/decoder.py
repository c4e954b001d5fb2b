"""What decoders of the llama kind have in common: names of tensors and keys. A family changes what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from numpy.typing import NDArray

from corral.adapters.converters.safetensors.checkpoint import Checkpoint
from corral.adapters.converters.safetensors.config import Config
from corral.adapters.converters.safetensors.families.rope import frequency_factors, rope_keys
from corral.adapters.converters.safetensors.family import PlannedTensor
from corral.adapters.converters.safetensors.tokenizers.choice import tokenizer_keys
from corral.core.errors import InvalidModelFile, Unsupported

__all__ = ("DecoderFamily",)

_LONGEST_HEAD = 65_536  # far beyond any model's: its frequencies are computed one by one

Change = Callable[..., NDArray[Any]]


class DecoderFamily:
    """A `CheckpointFamily`. Subclasses set the attributes and override what differs.

    `architecture` is llama.cpp's name. `layer_parts` are the tensors of a layer: names in the checkpoint, and in the
    GGUF. Each must have a weight, and may have a bias. `activations` are the values of ``hidden_act`` that llama.cpp
    computes for the architecture. `usually_tied`: the output is the token table unless ``config.json`` denies it.
    """

    architecture = ""
    outer_parts: ClassVar[Mapping[str, str]] = {"embed_tokens": "token_embd", "norm": "output_norm"}
    layer_parts: ClassVar[Mapping[str, str]] = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    activations: tuple[str, ...] = ("silu", "swish")
    usually_tied = False

    # ── What a family may override ────────────────────────────────────────────────────────────────────────────────

    def config(self, checkpoint: Checkpoint) -> Config:
        """The part of ``config.json`` that describes the decoder."""
        return checkpoint.config

    def prefix(self, checkpoint: Checkpoint) -> str:
        """What precedes the names of the decoder's tensors: ``model.``, or nothing if only the decoder was saved."""
        return "" if "embed_tokens.weight" in checkpoint.tensors else "model."

    def own_keys(self, config: Config) -> Mapping[str, Any]:
        """Keys of the architecture, without its name before them, besides those that all decoders have."""
        return {}

    def position_keys(self, config: Config) -> Mapping[str, Any]:
        """Keys of the rotary positions, likewise."""
        return rope_keys(config, self.head_size(config))

    def rearranging(self, config: Config, target: str) -> Change | None:
        """What `PlannedTensor.rearrange` is for a tensor of a layer (``attn_q``), or outside of them."""
        return None

    def computing(self, config: Config, target: str) -> Change | None:
        """What `PlannedTensor.compute` is, likewise."""
        return None

    def head_size(self, config: Config) -> int:
        """The length of a head of the attention."""
        heads, hidden = config.count("num_attention_heads"), config.count("hidden_size")
        size = config.count("head_dim", max(1, hidden // heads))
        if size % 2 or size > _LONGEST_HEAD or ("head_dim" not in config and hidden % heads):
            raise InvalidModelFile(
                f"config.json: {heads} heads of {size} cannot share a width of {hidden}", "fetch it again"
            )
        return size

    # ── CheckpointFamily ──────────────────────────────────────────────────────────────────────────────────────────

    def keys(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        config = self.config(checkpoint)
        self._check(config)
        heads = config.count("num_attention_heads")
        own = {
            "block_count": config.count("num_hidden_layers"),
            "context_length": config.count("max_position_embeddings"),
            "embedding_length": config.count("hidden_size"),
            "feed_forward_length": config.count("intermediate_size"),
            "attention.head_count": heads,
            "attention.head_count_kv": config.count("num_key_value_heads", heads),
            "attention.layer_norm_rms_epsilon": config.number("rms_norm_eps"),
            "vocab_size": self._rows(checkpoint),
            **self.position_keys(config),
            **self.own_keys(config),
        }
        if "head_dim" in config:
            size = config.count("head_dim")
            own |= {"attention.key_length": size, "attention.value_length": size}
        return {
            "general.architecture": self.architecture,
            **{f"{self.architecture}.{key}": value for key, value in own.items()},
        }

    def tensors(self, checkpoint: Checkpoint) -> Iterator[PlannedTensor]:
        config, prefix = self.config(checkpoint), self.prefix(checkpoint)
        for source, target in self.outer_parts.items():
            yield from self._part(checkpoint, f"{prefix}{source}", target, target)
        if self._has_output(checkpoint):
            yield from self._part(checkpoint, "lm_head", "output", "output")
        factors = frequency_factors(config, self.head_size(config))
        if factors is not None:
            yield PlannedTensor("rope_freqs.weight", (), factors.shape, compute=lambda: factors)
        for layer in range(config.count("num_hidden_layers")):
            for source, target in self.layer_parts.items():
                yield from self._part(checkpoint, f"{prefix}layers.{layer}.{source}", f"blk.{layer}.{target}", target)

    def ignored(self, name: str) -> bool:
        """Tables that are computed from the configuration, and the output matrix where it is the token table."""
        return name.endswith((".rotary_emb.inv_freq", ".attn.masked_bias")) or name == "lm_head.weight"

    def tokenizer(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        return tokenizer_keys(checkpoint, self._rows(checkpoint))

    # ── Parts ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _part(self, checkpoint: Checkpoint, source: str, name: str, target: str) -> Iterator[PlannedTensor]:
        config = self.config(checkpoint)
        rearrange, compute = self.rearranging(config, target), self.computing(config, target)
        for ending in (".weight", ".bias"):
            if ending == ".weight" or f"{source}{ending}" in checkpoint.tensors:
                yield PlannedTensor(f"{name}{ending}", (f"{source}{ending}",), rearrange=rearrange, compute=compute)

    def _rows(self, checkpoint: Checkpoint) -> int:
        """The number of tokens that the model has: rows of its table, of which the tokenizer may use fewer."""
        shape = checkpoint.tensors.shape(f"{self.prefix(checkpoint)}embed_tokens.weight")
        return shape[0] if shape else 0

    def _has_output(self, checkpoint: Checkpoint) -> bool:
        """Whether the output is a matrix of its own; otherwise, it is the token table."""
        tied = self.config(checkpoint).raw("tie_word_embeddings")
        if tied is None and self.usually_tied:
            return False
        if "lm_head.weight" in checkpoint.tensors:
            return tied is not True
        if tied is False and self.prefix(checkpoint):
            raise InvalidModelFile(
                "the checkpoint has no tensor 'lm_head.weight', and config.json does not say that its output is the "
                "token table",
                "check that all of its files are there",
            )
        return False

    def _check(self, config: Config) -> None:
        activation = config.raw("hidden_act") or config.raw("hidden_activation") or self.activations[0]
        if activation not in self.activations:
            raise Unsupported(
                f"llama.cpp computes {self.architecture} with {self.activations[0]}, but this model has {activation!r}"
            )

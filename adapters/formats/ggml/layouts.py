"""How the files of each model family are laid out: the numbers at the start, the vocabulary, the tensors.

Source: the loaders in ctransformers 0.2.27, ``models/llms/*.cc``, which are those of ggml's examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from corral.core.values import Value

__all__ = ("LAYOUTS", "Layout")


class Layout(Value, frozen=True, kw_only=True):
    """One family. `fields` are 32-bit numbers in file order; those in `floats` are floats.

    `vocabulary`: ``counted`` repeats the number of tokens before them, ``scored`` has a float32 after each, ``latin``
    spells each byte as a character. Shapes are in file order, in terms of the width ``e`` and its multiples, the
    vocabulary ``v`` and the context ``c``. Tensors of one dimension and those in `float_tensors` are float32, all
    others of the file's type. Tensors in `optional` may be missing. `twin` is the family of the same layout whose
    vocabularies hold one of `twin_tokens`.
    """

    name: str
    fields: tuple[str, ...]
    floats: frozenset[str] = frozenset()
    vocabulary: Literal["counted", "plain", "scored", "latin"] = "plain"
    tensors: Mapping[str, tuple[str, ...]]
    layer_prefix: str
    layer_tensors: Mapping[str, tuple[str, ...]]
    float_tensors: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    twin: str = ""
    twin_tokens: frozenset[bytes] = frozenset()

    def shapes(self, numbers: Mapping[str, int | float]) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape, for the numbers of one file."""
        width = int(numbers["width"])
        sizes = {
            "e": width,
            "3e": 3 * width,
            "4e": 4 * width,
            "v": int(numbers["vocabulary"]),
            "c": int(numbers["context"]),
        }
        named = dict(self.tensors)
        for layer in range(int(numbers["layers"])):
            for name, shape in self.layer_tensors.items():
                named[f"{self.layer_prefix % layer}{name}"] = shape
        return {name: tuple(sizes[side] for side in shape) for name, shape in named.items()}


_GPT2 = Layout(
    name="gpt2",
    fields=("vocabulary", "context", "width", "heads", "layers", "type"),
    vocabulary="counted",
    tensors={
        "model/ln_f/g": ("e",),
        "model/ln_f/b": ("e",),
        "model/wte": ("e", "v"),
        "model/wpe": ("e", "c"),
        "model/lm_head": ("e", "v"),
    },
    layer_prefix="model/h%d/",
    layer_tensors={
        "ln_1/g": ("e",),
        "ln_1/b": ("e",),
        "ln_2/g": ("e",),
        "ln_2/b": ("e",),
        "attn/c_attn/w": ("e", "3e"),
        "attn/c_attn/b": ("3e",),
        "attn/c_proj/w": ("e", "e"),
        "attn/c_proj/b": ("e",),
        "mlp/c_fc/w": ("e", "4e"),
        "mlp/c_fc/b": ("4e",),
        "mlp/c_proj/w": ("4e", "e"),
        "mlp/c_proj/b": ("e",),
    },
    float_tensors=frozenset({"model/wpe"}),
    optional=frozenset({"model/lm_head"}),
    twin="starcoder",
    twin_tokens=frozenset({b"<fim_prefix>", b"<fim-prefix>"}),
)

_GPTJ = Layout(
    name="gptj",
    fields=("vocabulary", "context", "width", "heads", "layers", "rotated", "type"),
    vocabulary="counted",
    tensors={
        "transformer.wte.weight": ("e", "v"),
        "transformer.ln_f.weight": ("e",),
        "transformer.ln_f.bias": ("e",),
        "lm_head.weight": ("e", "v"),
        "lm_head.bias": ("v",),
    },
    layer_prefix="transformer.h.%d.",
    layer_tensors={
        "ln_1.weight": ("e",),
        "ln_1.bias": ("e",),
        "attn.q_proj.weight": ("e", "e"),
        "attn.k_proj.weight": ("e", "e"),
        "attn.v_proj.weight": ("e", "e"),
        "attn.out_proj.weight": ("e", "e"),
        "mlp.fc_in.weight": ("e", "4e"),
        "mlp.fc_in.bias": ("4e",),
        "mlp.fc_out.weight": ("4e", "e"),
        "mlp.fc_out.bias": ("e",),
    },
)

_GPT_NEOX = Layout(
    name="gpt_neox",
    fields=("vocabulary", "context", "width", "heads", "layers", "rotated", "parallel", "type"),
    tensors={
        "gpt_neox.embed_in.weight": ("e", "v"),
        "gpt_neox.final_layer_norm.weight": ("e",),
        "gpt_neox.final_layer_norm.bias": ("e",),
        "embed_out.weight": ("e", "v"),
    },
    layer_prefix="gpt_neox.layers.%d.",
    layer_tensors={
        "input_layernorm.weight": ("e",),
        "input_layernorm.bias": ("e",),
        "attention.query_key_value.weight": ("e", "3e"),
        "attention.query_key_value.bias": ("3e",),
        "attention.dense.weight": ("e", "e"),
        "attention.dense.bias": ("e",),
        "post_attention_layernorm.weight": ("e",),
        "post_attention_layernorm.bias": ("e",),
        "mlp.dense_h_to_4h.weight": ("e", "4e"),
        "mlp.dense_h_to_4h.bias": ("4e",),
        "mlp.dense_4h_to_h.weight": ("4e", "e"),
        "mlp.dense_4h_to_h.bias": ("e",),
    },
    twin="dolly",
    twin_tokens=frozenset({b"### End"}),
)

_MPT = Layout(
    name="mpt",
    fields=("width", "context", "heads", "layers", "vocabulary", "alibi", "clip", "type"),
    floats=frozenset({"alibi", "clip"}),
    vocabulary="latin",
    tensors={"transformer.wte.weight": ("e", "v"), "transformer.norm_f.weight": ("e",)},
    layer_prefix="transformer.blocks.%d.",
    layer_tensors={
        "norm_1.weight": ("e",),
        "attn.Wqkv.weight": ("e", "3e"),
        "attn.out_proj.weight": ("e", "e"),
        "norm_2.weight": ("e",),
        "ffn.up_proj.weight": ("e", "4e"),
        "ffn.down_proj.weight": ("4e", "e"),
    },
)

_REPLIT = Layout(
    name="replit",
    fields=("width", "context", "heads", "layers", "vocabulary", "type"),
    vocabulary="scored",
    tensors=_MPT.tensors,
    layer_prefix=_MPT.layer_prefix,
    layer_tensors=_MPT.layer_tensors,
)

LAYOUTS = (_GPT2, _GPTJ, _GPT_NEOX, _MPT, _REPLIT)

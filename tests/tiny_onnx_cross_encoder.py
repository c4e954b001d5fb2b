"""Writes the tiny cross-encoders of `tests.tiny_cross_encoder` as folders with an ONNX graph, and computes their scores
with NumPy alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.reference_models.bert import relevance
from tests.tiny_cross_encoder import CONFIG, CONTEXT, SPECIAL, WORDS, cross_encoder_weights, pair_ids

__all__ = ("onnx_reference_scores", "write_onnx_cross_encoder")

_CONFIG = {**CONFIG, "hidden_act": "gelu", "model_type": "bert", "pad_token_id": 0}
_TYPES = "embeddings.token_type_embeddings.weight"
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def write_onnx_cross_encoder(
    folder: Path,
    *,
    labels: int = 1,
    typed: bool = True,
    types: int = 2,
    config: dict[str, Any] | None = None,
) -> Path:
    """A ``BertForSequenceClassification`` as Optimum exports it, with so many `labels` and `types` of tokens. If not
    `typed`, the graph has no input for types. `config` replaces what ``config.json`` says of the kind of model.
    """
    import onnx
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    weights = cross_encoder_weights(0, labels)
    weights[_TYPES] = weights[_TYPES][:types]
    onnx.save(_Graph(weights, typed=typed).model(labels), folder / "model.onnx")
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(number): f"LABEL_{number}" for number in range(labels)},
    }
    (folder / "config.json").write_text(json.dumps({**_CONFIG, **(kind if config is None else config)}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": CONTEXT}))
    return folder


def onnx_reference_scores(query: str, documents: Sequence[str], *, typed: bool = True) -> list[float]:
    """The scores of the model, from the same weights, in float64. The document and the token that ends
    it are of type 1.
    """
    weights = cross_encoder_weights(0, 1)
    scores = []
    for document in documents:
        ids = pair_ids(query, document)
        first = len(pair_ids(query, "")) - 1
        types = [0] * first + [int(typed)] * (len(ids) - first)
        scores.append(float(relevance(_CONFIG, weights, ids, types)[0]))
    return scores


class _Graph:
    """Nodes of the forward pass, by the names of their outputs."""

    def __init__(self, weights: dict[str, Any], *, typed: bool) -> None:
        import onnx

        self._onnx = onnx
        self._typed = typed
        self._nodes: list[Any] = []
        self._constants = [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()]

    def model(self, labels: int) -> Any:
        """The whole model. Its batch and the length of its texts are open."""
        helper, types = self._onnx.helper, self._onnx.TensorProto
        x = self._embedded()
        hidden = self._node("Cast", "attention_mask", to=types.FLOAT)
        hidden = self._node("Mul", self._node("Sub", hidden, self._of(1.0)), self._of(1e9))
        hidden = self._node("Unsqueeze", hidden, self._of([1, 2]))
        for layer in range(_CONFIG["num_hidden_layers"]):
            x = self._layer(x, hidden, f"encoder.layer.{layer}")
        first = self._node("Gather", x, self._of(0), axis=1)
        pooled = self._node("Tanh", self._linear(first, "pooler.dense"))
        self._node("Identity", self._linear(pooled, "classifier"), output="logits")
        inputs = _INPUTS if self._typed else _INPUTS[:2]
        graph = helper.make_graph(
            self._nodes,
            "cross-encoder",
            [helper.make_tensor_value_info(name, types.INT64, ["batch_size", "sequence_length"]) for name in inputs],
            [helper.make_tensor_value_info("logits", types.FLOAT, ["batch_size", labels])],
            self._constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)

    def _embedded(self) -> str:
        tables = "embeddings.{}_embeddings.weight"
        words = self._node("Gather", tables.format("word"), "input_ids")
        kinds = "token_type_ids" if self._typed else self._node("Mul", "input_ids", self._of(0))
        types = self._node("Gather", tables.format("token_type"), kinds)
        length = self._node("Gather", self._node("Shape", "input_ids"), self._of(1))
        places = self._node("Range", self._of(0), length, self._of(1))
        positions = self._node("Gather", tables.format("position"), places)
        total = self._node("Add", self._node("Add", words, types), positions)
        return self._normed(total, "embeddings.LayerNorm")

    def _layer(self, x: str, hidden: str, at: str) -> str:
        heads, width = _CONFIG["num_attention_heads"], _CONFIG["hidden_size"]
        turned = {"query": [0, 2, 1, 3], "key": [0, 2, 3, 1], "value": [0, 2, 1, 3]}
        q, k, v = (
            self._node("Transpose", self._reshaped(self._linear(x, f"{at}.attention.self.{name}"), heads), perm=order)
            for name, order in turned.items()
        )
        scores = self._node("Mul", self._node("MatMul", q, k), self._of(1 / math.sqrt(width // heads)))
        seen = self._node("Softmax", self._node("Add", scores, hidden), axis=-1)
        mixed = self._node("Transpose", self._node("MatMul", seen, v), perm=[0, 2, 1, 3])
        joined = self._node("Reshape", mixed, self._of([0, 0, width]))
        out = self._linear(joined, f"{at}.attention.output.dense")
        x = self._normed(self._node("Add", x, out), f"{at}.attention.output.LayerNorm")
        inner = self._node("Gelu", self._linear(x, f"{at}.intermediate.dense"))
        return self._normed(self._node("Add", x, self._linear(inner, f"{at}.output.dense")), f"{at}.output.LayerNorm")

    def _reshaped(self, x: str, heads: int) -> str:
        return self._node("Reshape", x, self._of([0, 0, heads, _CONFIG["hidden_size"] // heads]))

    def _linear(self, x: str, name: str) -> str:
        turned = self._node("Transpose", f"{name}.weight", perm=[1, 0])
        return self._node("Add", self._node("MatMul", x, turned), f"{name}.bias")

    def _normed(self, x: str, name: str) -> str:
        epsilon = _CONFIG["layer_norm_eps"]
        return self._node("LayerNormalization", x, f"{name}.weight", f"{name}.bias", axis=-1, epsilon=epsilon)

    def _of(self, value: float | list[int]) -> str:
        """A constant."""
        name = f"constant {len(self._constants)}"
        kind = np.float32 if isinstance(value, float) else np.int64
        self._constants.append(self._onnx.numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def _node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"node {len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name

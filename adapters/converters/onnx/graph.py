"""Builds the ONNX graph of a decoder as ONNX Runtime GenAI calls it.

Inputs, outputs and operators are those of ``onnxruntime_genai.models.builder``: ``com.microsoft`` operators of ONNX
Runtime's ``ContribOperators.md``, rotation and the key-value cache inside ``GroupQueryAttention``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from corral.adapters.converters.onnx.decoder import Decoder, context_length
from corral.adapters.converters.onnx.quantized_blocks import BLOCK, EIGHT_BIT_ZERO
from corral.adapters.converters.onnx.rotary import rotary_tables
from corral.adapters.converters.onnx.spec import OnnxParameters
from corral.adapters.converters.onnx.weights import Matrix, Source, WeightWriter

__all__ = ("build_graph",)

_OPSETS = {"": 21, "com.microsoft": 1}
_IR_VERSION = 10


def build_graph(decoder: Decoder, parameters: OnnxParameters, weights: WeightWriter) -> onnx.ModelProto:
    """The whole model; its weights are written as the graph grows. Raises as `WeightWriter` does."""
    return _Graph(decoder, parameters, weights).model()


class _Graph:
    def __init__(self, decoder: Decoder, parameters: OnnxParameters, weights: WeightWriter) -> None:
        self._decoder = decoder
        self._parameters = parameters
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: set[str] = set()
        self._summed: set[str] = set()

    def model(self) -> onnx.ModelProto:
        decoder, weights = self._decoder, self._weights
        lengths = self._lengths()
        factors = weights.numbers(decoder.rope_factors) if decoder.rope_factors else None
        cos, sin = rotary_tables(decoder, context_length(decoder, self._parameters), factors)
        rotation = weights.table("rotary.cos", cos), weights.table("rotary.sin", sin)
        table = self._matrix("token_embd", [Source("token_embd.weight")], decoder.hidden, 8)
        state, branch = self._embedded(table), ""
        for layer in range(decoder.layers):
            state, branch = self._layer(layer, state, branch, lengths, rotation)
        _, normed = self._normed("output_norm", state, branch)
        output = table if decoder.tied else self._matrix("output", [Source("output.weight")], decoder.hidden, 8)
        last = self._node("Gather", [normed, self._integers("last", [-1])], "output.last", axis=1)
        self._product(last, output, "logits")
        weights.check_all_used()
        return self._proto()

    def _layer(
        self, layer: int, state: str, branch: str, lengths: tuple[str, str], rotation: tuple[str, str]
    ) -> tuple[str, str]:
        """The state before the last addition, and what to add to it: the next norm does that."""
        hidden, heads = self._decoder.hidden, self._decoder.heads * self._decoder.head_size
        name = f"blk.{layer}"
        state, normed = self._normed(f"{name}.attn_norm", state, branch)
        attended = self._attention(layer, normed, lengths, rotation)
        output = self._matrix(
            f"{name}.attn_output", [Source(f"{name}.attn_output.weight")], heads, self._parameters.bits
        )
        state, normed = self._normed(f"{name}.ffn_norm", state, self._product(attended, output, f"{name}.attn_output"))
        gate, up = (
            self._product(
                normed,
                self._matrix(f"{name}.{part}", [Source(f"{name}.{part}.weight")], hidden, self._parameters.bits),
                f"{name}.{part}",
            )
            for part in ("ffn_gate", "ffn_up")
        )
        active = self._node("QuickGelu", [gate], f"{name}.ffn_act", domain="com.microsoft", alpha=1.0)  # together: SiLU
        product = self._node("Mul", [active, up], f"{name}.ffn_product")
        width = self._weights.columns(f"{name}.ffn_down.weight")
        down = self._matrix(f"{name}.ffn_down", [Source(f"{name}.ffn_down.weight")], width, self._parameters.bits)
        return state, self._product(product, down, f"{name}.ffn_down")

    def _attention(self, layer: int, normed: str, lengths: tuple[str, str], rotation: tuple[str, str]) -> str:
        decoder, name = self._decoder, f"blk.{layer}"
        if decoder.head_norms:  # between product and rotation, so Q and K are handled separately
            inputs = [
                self._head_norm(name, part, self._projected(layer, (part,), normed)) for part in ("attn_q", "attn_k")
            ]
            inputs.append(self._projected(layer, ("attn_v",), normed))
        else:
            inputs = [self._projected(layer, ("attn_q", "attn_k", "attn_v"), normed), "", ""]
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        present = [f"present.{layer}.{part}" for part in ("key", "value")]
        attended = f"{name}.attended"
        self._nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [*inputs, *past, *lengths, *rotation],
                [attended, *present],
                name=attended,
                domain="com.microsoft",
                num_heads=decoder.heads,
                kv_num_heads=decoder.kv_heads,
                scale=float(decoder.head_size**-0.5),
                do_rotary=1,
                rotary_interleaved=0,
            )
        )
        return attended

    def _projected(self, layer: int, parts: Sequence[str], normed: str) -> str:
        """A single product for all `parts`."""
        decoder = self._decoder
        turned = decoder.head_size if decoder.interleaved else 0
        name = f"blk.{layer}." + "_".join(part.removeprefix("attn_") for part in parts)
        sizes = {part: 0 if part == "attn_v" else turned for part in parts}
        sources = [Source(f"blk.{layer}.{part}.weight", size) for part, size in sizes.items()]
        matrix = self._matrix(name, sources, decoder.hidden, self._parameters.bits)
        bias = ""
        if decoder.biases:
            biases = [Source(f"blk.{layer}.{part}.bias", size) for part, size in sizes.items()]
            bias = self._weights.vector(f"{name}.bias", biases, matrix.rows)
        return self._product(normed, matrix, name, bias)

    def _head_norm(self, name: str, part: str, projected: str) -> str:
        decoder = self._decoder
        split = self._integers("heads", [0, 0, -1, decoder.head_size])
        joined = self._integers("joined", [0, 0, -1])
        heads = self._node("Reshape", [projected, split], f"{name}.{part}.heads")
        weight = self._weights.vector(f"{name}.{part}_norm", [Source(f"{name}.{part}_norm.weight")], decoder.head_size)
        normed = self._simplified_norm(heads, weight, f"{name}.{part}_norm.out")
        return self._node("Reshape", [normed, joined], f"{name}.{part}.joined")

    def _normed(self, name: str, state: str, branch: str) -> tuple[str, str]:
        """The sum of both, and its norm; without a branch, the state itself is the sum."""
        weight = self._weights.vector(name, [Source(f"{name}.weight")], self._decoder.hidden)
        normed = f"{name}.out"
        if not branch:
            return state, self._simplified_norm(state, weight, normed)
        total = f"{name}.sum"
        self._nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization",
                [state, branch, weight],
                [normed, "", "", total],
                name=normed,
                domain="com.microsoft",
                epsilon=self._decoder.epsilon,
            )
        )
        return total, normed

    def _simplified_norm(self, state: str, weight: str, output: str) -> str:
        return self._node(
            "SimplifiedLayerNormalization",
            [state, weight],
            output,
            axis=-1,
            epsilon=self._decoder.epsilon,
            stash_type=1,
        )

    def _matrix(self, name: str, sources: Sequence[Source], columns: int, bits: int | None) -> Matrix:
        return self._weights.matrix(name, sources, columns, bits)

    def _product(self, state: str, matrix: Matrix, name: str, bias: str = "") -> str:
        operand = self._with_sums(state) if matrix.sums else state
        inputs = [operand, matrix.levels, matrix.scales, matrix.zeros, "", bias]
        while not inputs[-1]:
            inputs.pop()
        return self._node(
            "MatMulNBits",
            inputs,
            name if name == "logits" else f"{name}.product",
            domain="com.microsoft",
            K=matrix.columns + matrix.sums,
            N=matrix.rows,
            bits=matrix.bits,
            block_size=BLOCK,
            accuracy_level=self._parameters.accuracy_level,
        )

    def _with_sums(self, state: str) -> str:
        """The activations, followed by the sums of their blocks: see `quantize`."""
        joined = f"{state}.with_sums"
        if joined not in self._summed:
            self._summed.add(joined)
            blocks = self._node("Reshape", [state, self._integers("blocks", [0, 0, -1, BLOCK])], f"{state}.blocks")
            sums = self._node("ReduceSum", [blocks, self._integers("column", [-1])], f"{state}.sums", keepdims=0)
            self._node("Concat", [state, sums], joined, axis=-1)
        return joined

    def _embedded(self, table: Matrix) -> str:
        """Rows of the token table as float32; the table is quantized and shared with the output."""
        levels = self._node("Gather", [table.levels, "input_ids"], "embedding.levels", axis=0)
        scales = self._node("Gather", [table.scales, "input_ids"], "embedding.row_scales", axis=0)
        column = self._node("Unsqueeze", [scales, self._integers("column", [-1])], "embedding.scales")
        floats = self._node("Cast", [levels], "embedding.floats", to=TensorProto.FLOAT)
        zero = self._constant("embedding.zero", np.array(EIGHT_BIT_ZERO, dtype=np.float32))
        centred = self._node("Sub", [floats, zero], "embedding.centred")
        blocks = self._node("Mul", [centred, column], "embedding.blocks")
        rows = self._node("Reshape", [blocks, self._integers("joined", [0, 0, -1])], "embedding.rows")
        if table.columns % BLOCK == 0:
            return rows
        limits = {"start": 0, "end": table.columns, "axis": 2}
        bounds = [self._integers(f"embedding.{name}", [value]) for name, value in limits.items()]
        return self._node("Slice", [rows, *bounds], "embedding.cut")

    def _lengths(self) -> tuple[str, str]:
        """What the attention needs from the mask: the index of the last token of each row, and the total length."""
        total = self._node("ReduceSum", ["attention_mask", self._integers("one", [1])], "lengths.sum", keepdims=0)
        last = self._node("Sub", [total, self._integers("one", [1])], "lengths.last")
        shape = self._node("Shape", ["attention_mask"], "lengths.shape")
        width = self._node(
            "Gather", [shape, self._constant("width_axis", np.array(1, dtype=np.int64))], "lengths.width", axis=0
        )
        return (
            self._node("Cast", [last], "lengths.last_int32", to=TensorProto.INT32),
            self._node("Cast", [width], "lengths.width_int32", to=TensorProto.INT32),
        )

    def _node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def _integers(self, name: str, values: Sequence[int]) -> str:
        return self._constant(name, np.array(values, dtype=np.int64))

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        if name not in self._constants:
            self._constants.add(name)
            self._weights.constant(name, value)
        return name

    def _proto(self) -> onnx.ModelProto:
        decoder, value = self._decoder, helper.make_tensor_value_info
        cache = ["batch_size", decoder.kv_heads]
        layers = [(layer, part) for layer in range(decoder.layers) for part in ("key", "value")]
        past = ["past_sequence_length", decoder.head_size]
        present = ["total_sequence_length", decoder.head_size]
        inputs = [
            value("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
            value("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"]),
            *(value(f"past_key_values.{i}.{part}", TensorProto.FLOAT, [*cache, *past]) for i, part in layers),
        ]
        outputs = [
            value("logits", TensorProto.FLOAT, ["batch_size", 1, decoder.vocabulary]),
            *(value(f"present.{i}.{part}", TensorProto.FLOAT, [*cache, *present]) for i, part in layers),
        ]
        graph = helper.make_graph(self._nodes, "decoder", inputs, outputs, self._weights.initializers)
        opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="corral")

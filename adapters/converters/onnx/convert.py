"""Converts one GGUF model into the folder that ONNX Runtime GenAI loads. Runs as a job, in a separate process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from corral.adapters.converters.onnx.config import genai_config
from corral.adapters.converters.onnx.decoder import context_length, read_decoder
from corral.adapters.converters.onnx.external_data import ExternalData, write_file
from corral.adapters.converters.onnx.graph import build_graph
from corral.adapters.converters.onnx.spec import ARCHITECTURES, OnnxParameters
from corral.adapters.converters.onnx.tokenizer import tokenizer_config, tokenizer_json
from corral.adapters.converters.onnx.vocabulary import read_vocabulary
from corral.adapters.converters.onnx.weights import WeightWriter
from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.core.errors import InvalidOption, Unsupported
from corral.core.specs.converters import ConvertedFile, ConvertRequest, ConvertResult

__all__ = ("convert",)


def convert(request: ConvertRequest, on_progress: Callable[[float], None]) -> ConvertResult:
    """Writes the files of the folder. Only a few rows of the weights are in memory at a time.

    Raises `Unsupported` for a model whose graph or tokenizer is unknown, `InvalidModelFile` for a broken file,
    `InvalidOption` for parameters, `OutOfSpace` and `StorageError` for the folder.
    """
    parameters = _parameters(request)
    folder = Path(request.folder)
    sources = [file for file in request.files if file.role == "weights"]
    if len(sources) != 1:
        raise Unsupported(f"{request.model} has {len(sources)} weights files; only models with one can be converted")
    path = Path(sources[0].path)
    with GgufTensors(path) as tensors:
        architecture = tensors.pairs.get("general.architecture")
        if architecture not in ARCHITECTURES:
            raise Unsupported(
                f"{request.model} has the architecture {architecture!r}, not {' or '.join(ARCHITECTURES)}"
            )
        decoder, vocabulary = read_decoder(tensors), read_vocabulary(path)
        template = tensors.pairs.get("tokenizer.chat_template")
        template = template if isinstance(template, str) else None
        with ExternalData(folder / "model.onnx.data") as data:
            weights = WeightWriter(tensors, data, on_progress)
            model = build_graph(decoder, parameters, weights)
    length = context_length(decoder, parameters)
    files = {
        "model.onnx": model.SerializeToString(),
        "genai_config.json": _json(genai_config(decoder, parameters, vocabulary)),
        "tokenizer.json": _json(tokenizer_json(vocabulary)),
        "tokenizer_config.json": _json(tokenizer_config(vocabulary, length, template)),
    }
    if template is not None:
        files["chat_template.jinja"] = template.encode()
    for name, content in files.items():
        write_file(folder / name, content)
    return ConvertResult(
        files=(
            ConvertedFile(path="model.onnx"),
            ConvertedFile(path="model.onnx.data"),
            *(ConvertedFile(path=name, role="config") for name in files if name != "model.onnx"),
        ),
        format="onnx",
        quantization=f"int{weights.least_bits}",
        context_length=length,
        embedding_length=decoder.hidden,
    )


def _parameters(request: ConvertRequest) -> OnnxParameters:
    try:
        return msgspec.convert(dict(request.parameters), OnnxParameters)
    except msgspec.ValidationError as error:
        raise InvalidOption(f"parameters of the onnx converter: {error}") from error


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2)

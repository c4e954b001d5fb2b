"""Rewrites a GGUF file of the llama architecture for ctransformers 0.2.27, tensor by tensor."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from corral.adapters.converters.ctransformers.layout import EMBEDDING, OUTPUT, llama_shapes
from corral.adapters.converters.ctransformers.spec import RE_ENCODED, unsupported
from corral.adapters.converters.ctransformers.tokens import spm_table
from corral.adapters.formats.gguf.header import Array
from corral.adapters.formats.gguf.reader import GgufReader
from corral.adapters.formats.gguf.tables import TENSOR_TYPES
from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.adapters.formats.gguf.vocabulary import read_vocabulary
from corral.adapters.formats.gguf.writer import NewTensor, gguf_header, padding
from corral.adapters.system.files import storage_errors
from corral.core.errors import InvalidModelFile, Unsupported
from corral.core.ports.runners import OnLoadProgress
from corral.core.random_access import RandomAccessFile
from corral.core.specs.converters import ConvertedFile, ConvertRequest, ConvertResult
from corral.core.wording.pip_lines import pip_line

__all__ = ("convert",)

_VERSION = 2
_FREQUENCIES = "rope_freqs.weight"
_FILE = "model.gguf"
_CHUNK_BYTES = 4 * 1024 * 1024
_F16_FILE_TYPE = 1
_BLOCKS = {kind.name: (kind.block, kind.block_bytes) for kind in TENSOR_TYPES.values()}


def convert(request: ConvertRequest, on_progress: OnLoadProgress) -> ConvertResult:
    """Writes ``model.gguf`` into the request's folder. Needs as much space as the source, plus the output matrix.

    Raises `InvalidModelFile`, `OutOfSpace`, `StorageError`, and `Unsupported` for a model that ctransformers cannot
    compute.
    """
    path = next((Path(file.path) for file in request.files if file.role == "weights"), None)
    if path is None:
        raise InvalidModelFile(f"model {request.model!r} has no weights file")
    with RandomAccessFile(path) as weights:
        metadata = GgufReader().read(weights)
    reason = unsupported(metadata)
    vocabulary = read_vocabulary(path)
    if reason is not None or vocabulary is None:
        raise Unsupported(f"{request.model} cannot be converted for ctransformers: {reason or 'it has no vocabulary'}")
    with GgufTensors(path) as source:
        sources = _sources(path, source, len(vocabulary.texts))
        tensors = [_new_tensor(source, name, origin) for name, origin in sources.items()]
        re_encoded = any(source.type(origin) in RE_ENCODED for origin in sources.values())
        pairs = _pairs(source) | spm_table(vocabulary)
        for name, token_id in vocabulary.named.items():
            pairs[f"tokenizer.ggml.{name}_token_id"] = token_id
        if re_encoded:
            pairs["general.file_type"] = _F16_FILE_TYPE
        target = Path(request.folder) / _FILE
        total = sum(tensor.size_bytes for tensor in tensors)
        with storage_errors(f"writing {target}"), target.open("wb") as file:
            file.write(gguf_header(_VERSION, pairs, tensors))
            done = 0
            for tensor in tensors:
                for data in _data(source, sources[tensor.name], tensor):
                    file.write(data)
                    done += len(data)
                    on_progress(done / total)
                file.write(bytes(padding(tensor.size_bytes)))
            _flush(file)
    return ConvertResult(
        files=(ConvertedFile(path=_FILE),),
        format="gguf",
        quantization="F16" if re_encoded else metadata.file_type,
        context_length=metadata.context_length,
        embedding_length=metadata.embedding_length,
    )


def _sources(path: Path, source: GgufTensors, vocabulary_size: int) -> dict[str, str]:
    """The source tensor of each tensor of the result: a tied output matrix is copied from the embedding."""
    shapes = llama_shapes(source.pairs, vocabulary_size)
    present = set(source.names)
    sources = {name: name for name in shapes}
    if OUTPUT not in present:
        sources[OUTPUT] = EMBEDDING
    foreign = sorted(present - set(sources))
    if foreign == [_FREQUENCIES] and bool((source.dequantized(_FREQUENCIES) == 1.0).all()):
        foreign = []
    if foreign:
        raise Unsupported(
            f"{path}: it has tensors that are unknown to the llama model of ctransformers: {', '.join(foreign[:4])}",
            f"run it with llama.cpp: {pip_line('corral[llama-cpp]')}",
        )
    for name, origin in sources.items():
        if source.shape(origin)[::-1] != shapes[name]:
            raise InvalidModelFile(f"{path}: the tensor {origin!r} is {source.shape(origin)[::-1]}, not {shapes[name]}")
    return sources


def _new_tensor(source: GgufTensors, name: str, origin: str) -> NewTensor:
    kind = source.type(origin)
    shape = source.shape(origin)[::-1]
    if len(shape) == 1 and kind != "F32":
        kind = "F32"  # norms: ctransformers' kernels can only multiply by float32
    kind = RE_ENCODED.get(kind, kind)
    block, block_bytes = _BLOCKS[kind]
    return NewTensor(name, kind, shape, math.prod(shape) // block * block_bytes)


def _data(source: GgufTensors, origin: str, tensor: NewTensor) -> Iterator[bytes]:
    """The tensor's bytes in pieces, re-encoded if its type changes."""
    rows = math.prod(tensor.shape[1:])
    step = max(1, _CHUNK_BYTES * rows // max(tensor.size_bytes, 1))
    for start in range(0, rows, step):
        if tensor.type_name == source.type(origin):
            yield source.blocks(origin, start, start + step).tobytes()
        else:
            values = source.rows(origin, start, start + step)
            yield values.astype("<f4" if tensor.type_name == "F32" else "<f2").tobytes()


def _pairs(source: GgufTensors) -> dict[str, Any]:
    """The source's header without its vocabulary, and without what is only true of the source's layout."""
    left_out = ("tokenizer.ggml.", "split.", "general.alignment")
    pairs: dict[str, Any] = {}
    for key, value in source.pairs.items():
        if not key.startswith(left_out):
            plain = source.array(key) if isinstance(value, Array) else value
            if isinstance(plain, bool | int | float | str) or (isinstance(plain, list) and _of_strings(plain)):
                pairs[key] = plain
    factor = pairs.get("llama.rope.scaling.factor")
    if pairs.get("llama.rope.scaling.type") == "linear" and isinstance(factor, int | float):
        pairs["llama.rope.scale_linear"] = float(factor)
    return pairs


def _of_strings(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, str) for value in values)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())

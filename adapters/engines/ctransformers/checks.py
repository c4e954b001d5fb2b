"""Checks a GGUF file before native code reads it, which crashes on anything unexpected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corral.adapters.converters.ctransformers.layout import llama_shapes
from corral.adapters.converters.ctransformers.spec import KNOWN_TYPES, unsupported
from corral.adapters.formats.gguf.reader import GgufReader
from corral.adapters.formats.gguf.vocabulary import GgufVocabulary, read_vocabulary
from corral.core.errors import InvalidModelFile
from corral.core.models.model import ModelMetadata
from corral.core.random_access import RandomAccessFile

__all__ = ("check_gguf",)

_VERSION = 2
_NEWLINE = "<0x0A>"
_REMEDY = "convert it first: corral convert MODEL --to ctransformers"


def check_gguf(path: Path) -> tuple[ModelMetadata, GgufVocabulary]:
    """Return the file's header, and the vocabulary that ctransformers sees.

    Raises `InvalidModelFile` for a file that is truncated, foreign, or not in the form that ctransformers reads.
    """
    with RandomAccessFile(path) as source:
        metadata = GgufReader().read(source)
        tensors = GgufReader().tensors(source)
    reason = unsupported(metadata)
    if reason is not None:
        raise InvalidModelFile(f"{path}: ctransformers cannot run it: {reason}")
    if metadata.format_version != _VERSION:
        raise InvalidModelFile(
            f"{path}: it is GGUF version {metadata.format_version}, but ctransformers reads only {_VERSION}", _REMEDY
        )
    foreign = sorted(set(metadata.tensor_types) - KNOWN_TYPES)
    if foreign:
        raise InvalidModelFile(f"{path}: ctransformers does not support {', '.join(foreign)} weights", _REMEDY)
    vocabulary = read_vocabulary(path)
    if vocabulary is None or vocabulary.model != "llama":
        raise InvalidModelFile(f"{path}: it has no SPM vocabulary, the only kind that ctransformers reads", _REMEDY)
    if not vocabulary.scores or not vocabulary.kinds or _NEWLINE not in vocabulary.texts:
        raise InvalidModelFile(f"{path}: its vocabulary lacks scores, kinds or the token {_NEWLINE}", _REMEDY)
    _check_tensors(path, metadata, tensors, len(vocabulary.texts))
    return metadata, vocabulary


def _check_tensors(
    path: Path, metadata: ModelMetadata, tensors: Sequence[tuple[str, str, tuple[int, ...]]], vocabulary_size: int
) -> None:
    wanted = llama_shapes(metadata.keys, vocabulary_size)
    found = {name: (kind, shape) for name, kind, shape in tensors}
    strangers = sorted(set(found) - set(wanted))
    if strangers:
        raise InvalidModelFile(f"{path}: ctransformers does not support its tensor {strangers[0]!r}")
    for name, shape in wanted.items():
        if name not in found:
            raise InvalidModelFile(f"{path}: it has no tensor {name!r}, which ctransformers needs", _REMEDY)
        kind, present = found[name]
        if present != shape:
            raise InvalidModelFile(f"{path}: the tensor {name!r} is {present}, but must be {shape}")
        if len(shape) == 1 and kind != "F32":
            raise InvalidModelFile(f"{path}: the tensor {name!r} is {kind}, but ctransformers needs F32", _REMEDY)

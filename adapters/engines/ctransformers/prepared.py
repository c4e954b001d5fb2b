"""Checks one file before anything native reads it, and makes its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from corral.adapters.converters.ctransformers.tokens import KEPT_PREFIX
from corral.adapters.engines.ctransformers.checks import check_gguf
from corral.adapters.engines.ctransformers.tokenizer import TextTokenizer, ggml_tokenizer, gguf_tokenizer
from corral.adapters.formats.ggml.file import read_ggml
from corral.adapters.formats.ggml.reader import GgmlReader
from corral.adapters.formats.gguf.vocabulary import read_vocabulary
from corral.core.errors import InvalidModelFile
from corral.core.models.model import ModelMetadata
from corral.core.random_access import RandomAccessFile
from corral.core.specs.engines import LoadRequest

__all__ = ("PreparedFile", "prepare", "weights_path")

_LARGEST_BATCH = 512  # llama's compute buffers are designed for this
_LEGACY_BATCH = 8
"""Other families size their buffers by an estimate, and a low one crashes the process: short pieces are safe."""
_MODEL_TYPES = {"gpt_neox": "gptneox", "dolly": "dollyv2"}
"""Names that differ in ctransformers."""


class PreparedFile(NamedTuple):
    """A file that was checked, and what is needed to load it."""

    metadata: ModelMetadata
    tokenizer: TextTokenizer
    model_type: str
    embeds: bool
    largest_batch: int


def weights_path(request: LoadRequest) -> Path:
    """Where the weights are. Raises `InvalidModelFile` without any."""
    path = next((file.path for file in request.files if file.role == "weights"), None)
    if path is None:
        raise InvalidModelFile(f"model {request.model!r} has no weights file")
    return Path(path)


def prepare(path: Path) -> PreparedFile:
    """Raises `InvalidModelFile` for a file that must not be loaded."""
    legacy = GgmlReader()
    with RandomAccessFile(path) as source:
        if legacy.recognises(source):
            file, metadata = read_ggml(source), legacy.read(source)
            model_type = _MODEL_TYPES.get(file.family, file.family)
            return PreparedFile(metadata, ggml_tokenizer(file), model_type, False, _LEGACY_BATCH)
    metadata, table = check_gguf(path)
    tokenizer = gguf_tokenizer(str(path), read_vocabulary(path, prefix=KEPT_PREFIX) or table)
    return PreparedFile(metadata, tokenizer, "gguf", True, _LARGEST_BATCH)

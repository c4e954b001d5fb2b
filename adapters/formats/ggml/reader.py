"""Turns the header of a GGML file into the metadata of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping

from corral.adapters.formats.ggml.file import MAGIC, GgmlFile, read_ggml
from corral.adapters.formats.magic import begins_with
from corral.core.models.model import ModelMetadata
from corral.core.random_access import RandomAccess

__all__ = ("GgmlReader",)

_F16_BYTES = 2


class GgmlReader:
    """The `MetadataReader` of legacy GGML files of gpt2, gptj, gpt_neox, dolly, starcoder, mpt and replit.

    Files do not state their family: it is the one whose layout fits. Stateless; safe for many threads.
    """

    @property
    def format(self) -> str:
        return "ggml"

    def recognises(self, source: RandomAccess) -> bool:
        return begins_with(source, MAGIC)

    def read(self, source: RandomAccess) -> ModelMetadata:
        file = read_ggml(source)
        numbers = file.numbers
        tensor_types: dict[str, int] = {}
        for tensor in file.tensors:
            tensor_types[tensor.type_name] = tensor_types.get(tensor.type_name, 0) + tensor.size_bytes
        width, layers = int(numbers["width"]), int(numbers["layers"])
        return ModelMetadata(
            format=self.format,
            architecture=file.family,
            file_type=file.type_name,
            parameter_count=sum(math.prod(tensor.shape) for tensor in file.tensors),
            tensor_bytes=sum(tensor_types.values()),
            tensor_types=tensor_types,
            block_count=layers,
            context_length=int(numbers["context"]),
            embedding_length=width,
            vocabulary_size=len(file.tokens),
            kv_bytes_per_token=2 * layers * width * _F16_BYTES,
            keys=_keys(file),
        )

    def describe(self, source: RandomAccess, *, verbose: bool) -> dict[str, object]:
        file = read_ggml(source)
        tokens = [token.decode("utf-8", "replace") for token in file.tokens] if verbose else None
        return {"general.architecture": file.family, **_keys(file), "ggml.tokens": tokens}

    def tensors(self, source: RandomAccess) -> list[tuple[str, str, tuple[int, ...]]]:
        return [(tensor.name, tensor.type_name, tensor.shape) for tensor in read_ggml(source).tensors]


def _keys(file: GgmlFile) -> Mapping[str, int | float]:
    return {f"ggml.{name}": value for name, value in file.numbers.items()}

"""Turns a GGUF header into the metadata of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from corral.adapters.formats.gguf.fill_in_the_middle import fim_ids, repository_ids
from corral.adapters.formats.gguf.header import MAGIC, Array, Header, HeaderFile
from corral.adapters.formats.gguf.joining import COUNT, join_parts, part_of
from corral.adapters.formats.gguf.lora import check_lora
from corral.adapters.formats.gguf.native_traps import refuse_traps
from corral.adapters.formats.gguf.pooling import pooling_of
from corral.adapters.formats.gguf.tables import FILE_TYPES, STRING
from corral.adapters.formats.magic import begins_with
from corral.core.errors import InvalidModelFile
from corral.core.models.model import ModelMetadata
from corral.core.ports.metadata import JoinedWeights, SplitPart
from corral.core.random_access import RandomAccess

__all__ = ("GgufReader",)

_CHAT_TEMPLATE = "tokenizer.chat_template"
_TOOLS_TEMPLATE = "tokenizer.chat_template.tool_use"
_ARCHITECTURE = "general.architecture"
_NAME = "general.name"
_TOKENS = "tokenizer.ggml.tokens"
_PER_LAYER = (".attention.head_count", ".attention.head_count_kv")
"""Keys that hold one number for all layers, or an array with one for each."""

_MAX_LAYERS = 4096
_KV_BYTES = 2  # f16

# The largest numbers a header may have. Real models are far below; products of these stay below 64 bits.
_LIMITS = {
    "block_count": 1 << 16,
    "context_length": 1 << 40,
    "embedding_length": 1 << 24,
    "vocab_size": 1 << 31,
    "attention.head_count": 1 << 16,
    "attention.head_count_kv": 1 << 16,
    "attention.key_length": 1 << 20,
    "attention.value_length": 1 << 20,
    "attention.sliding_window": 1 << 40,
    "pooling_type": 1 << 16,
}
_MAX_PARAMETERS = 1 << 60
_NAME_LIMIT = 256  # characters
_TEMPLATE_LIMIT = 1 << 20  # characters
_KEPT_TEXT_LIMIT = 1024  # characters of a value that is kept in `ModelMetadata.keys`
_SHOWN_TEXT_LIMIT = 1 << 16  # characters of a value that `describe` shows if it is not verbose
_SHOWN_VALUES_LIMIT = 1 << 21  # of all arrays together
_SHOWN_BYTES_LIMIT = 1 << 26


class GgufReader:
    """Reads GGUF versions 2 and 3, little endian: `MetadataReader`, `SplitReader`. Stateless; safe for many threads."""

    @property
    def format(self) -> str:
        return "gguf"

    def recognises(self, source: RandomAccess) -> bool:
        return begins_with(source, MAGIC)

    def read(self, source: RandomAccess) -> ModelMetadata:
        file = HeaderFile(source)
        header = file.header()
        texts = _special_texts(file, header)
        per_layer = {
            key: file.values(value)
            for key, value in header.pairs.items()
            if isinstance(value, Array) and key.endswith(_PER_LAYER) and value.length <= _MAX_LAYERS
        }
        metadata = _metadata(source.name, header, texts, per_layer, fim_ids(file, header.pairs))
        if metadata.fim_ids is None:
            return metadata
        return replace(metadata, repository_ids=repository_ids(file, header.pairs))

    def describe(self, source: RandomAccess, *, verbose: bool) -> dict[str, object]:
        file = HeaderFile(source)
        header = file.header()
        room = _Room(_SHOWN_VALUES_LIMIT, _SHOWN_BYTES_LIMIT)
        described: dict[str, object] = {
            key: _shown(file, value, room if verbose else None)
            for key, value in header.pairs.items()
            if key != _CHAT_TEMPLATE
        }
        described.setdefault("general.parameter_count", _parameter_count(header))
        return described

    def tensors(self, source: RandomAccess) -> list[tuple[str, str, tuple[int, ...]]]:
        return [(tensor.name, tensor.type_name, tensor.shape) for tensor in HeaderFile(source).header().tensors]

    def part(self, source: RandomAccess) -> SplitPart | None:
        return part_of(source)

    def join(self, sources: Sequence[RandomAccess]) -> JoinedWeights:
        return join_parts(sources)


class _Room:
    """How much of the arrays may still be shown: a hostile file has thousands, each just short enough."""

    def __init__(self, values: int, size_bytes: int) -> None:
        self._values = values
        self._bytes = size_bytes

    def values(self, file: HeaderFile, array: Array) -> list[Any] | None:
        if array.length > self._values:
            return None
        found = file.values(array, limit_bytes=self._bytes)
        if found is not None:
            self._values -= array.length
            self._bytes -= sum(len(text) if isinstance(text, str) else 8 for text in found)
        return found


def _shown(file: HeaderFile, value: object, room: _Room | None) -> object:
    """Arrays, and texts of many pages, are shown only if there is `room`; otherwise they are None."""
    if isinstance(value, str):
        return value if room is not None or len(value) <= _SHOWN_TEXT_LIMIT else None
    if not isinstance(value, Array):
        return value
    if not value.length:
        return []
    return None if room is None else room.values(file, value)


def _special_texts(file: HeaderFile, header: Header) -> tuple[str, str]:
    tokens = header.pairs.get(_TOKENS)
    ids = [_integer(header.pairs, f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")]
    if not isinstance(tokens, Array) or tokens.element_type != STRING:
        return "", ""
    texts = file.strings_at(tokens, {token_id for token_id in ids if token_id is not None})
    bos, eos = ("" if token_id is None else texts.get(token_id, "") for token_id in ids)
    return bos, eos


def _metadata(
    file_name: str,
    header: Header,
    texts: tuple[str, str],
    per_layer: Mapping[str, Sequence[Any] | None],
    fim: tuple[int, int, int] | None,
) -> ModelMetadata:
    pairs = header.pairs
    architecture = _text(pairs, _ARCHITECTURE)
    if not architecture and (parts := _integer(pairs, COUNT)):
        raise InvalidModelFile(
            f"{file_name}: it is one of {parts} parts of a model", "import the model: that joins its parts"
        )
    if not architecture:
        raise InvalidModelFile(f"{file_name}: it has no general.architecture, so no engine can run it")
    _check(file_name, header, architecture)
    refuse_traps(file_name, pairs)
    check_lora(file_name, header)
    tensor_types: dict[str, int] = {}
    for tensor in header.tensors:
        tensor_types[tensor.type_name] = tensor_types.get(tensor.type_name, 0) + tensor.size_bytes
    main_type = max(tensor_types, key=tensor_types.__getitem__, default="")
    tokens = pairs.get(_TOKENS)
    file_type = _integer(pairs, "general.file_type")
    return ModelMetadata(
        format="gguf",
        architecture=architecture,
        file_type=main_type if file_type is None else FILE_TYPES.get(file_type, main_type),
        parameter_count=_parameter_count(header),
        tensor_bytes=sum(tensor_types.values()),
        tensor_types=tensor_types,
        block_count=_integer(pairs, f"{architecture}.block_count") or 0,
        context_length=_integer(pairs, f"{architecture}.context_length"),
        embedding_length=_integer(pairs, f"{architecture}.embedding_length"),
        vocabulary_size=tokens.length if isinstance(tokens, Array) else _integer(pairs, f"{architecture}.vocab_size"),
        kv_bytes_per_token=_kv_bytes_per_token(architecture, pairs, per_layer),
        sliding_window=_integer(pairs, f"{architecture}.attention.sliding_window"),
        pooling=pooling_of(header, architecture),
        chat_template=_text(pairs, _CHAT_TEMPLATE) or None,
        tools_template=_text(pairs, _TOOLS_TEMPLATE) or None,
        bos_text=texts[0],
        eos_text=texts[1],
        fim_ids=fim,
        name=_text(pairs, _NAME)[:_NAME_LIMIT],
        format_version=header.version,
        keys={key: value for key, value in pairs.items() if _is_kept(key, value)},
    )


def _check(file_name: str, header: Header, architecture: str) -> None:
    """Raises `InvalidModelFile` for values that no real model has, and that no engine, list or reply could handle."""

    def refuse(what: str) -> InvalidModelFile:
        return InvalidModelFile(f"{file_name}: {what}, which no real model has", "fetch or convert the file again")

    for key, limit in (
        (_ARCHITECTURE, _NAME_LIMIT),
        (_CHAT_TEMPLATE, _TEMPLATE_LIMIT),
        (_TOOLS_TEMPLATE, _TEMPLATE_LIMIT),
    ):
        if len(_text(header.pairs, key)) > limit:
            raise refuse(f"{key} has {len(_text(header.pairs, key))} characters")
    for name, limit in _LIMITS.items():
        key = f"{architecture}.{name}"
        value = _integer(header.pairs, key)
        if value is not None and value > limit:
            raise refuse(f"{key} is {value}")
    if _parameter_count(header) > _MAX_PARAMETERS:
        raise refuse(f"it has {_parameter_count(header)} parameters")


def _is_kept(key: str, value: object) -> bool:
    """Whether it goes into `ModelMetadata.keys`, which stays in memory for every model."""
    if isinstance(value, str):
        return key not in (_CHAT_TEMPLATE, _TOOLS_TEMPLATE) and len(value) <= _KEPT_TEXT_LIMIT
    return not isinstance(value, Array)


def _kv_bytes_per_token(
    architecture: str, pairs: Mapping[str, Any], per_layer: Mapping[str, Sequence[Any] | None]
) -> int | None:
    layers = _integer(pairs, f"{architecture}.block_count") or 0
    if not 0 < layers <= _MAX_LAYERS:
        return None

    def heads(name: str) -> list[int]:
        key = f"{architecture}.attention.{name}"
        listed = per_layer.get(key)
        if listed is None:
            count = _integer(pairs, key)
            return [] if count is None else [count] * layers
        return [count for count in listed if isinstance(count, int) and 0 <= count <= _LIMITS["attention.head_count"]]

    query_heads = heads("head_count")
    cached_heads = heads("head_count_kv") or query_heads  # without grouping, each query head has its own
    most_heads = max(query_heads, default=0)
    embedding_length = _integer(pairs, f"{architecture}.embedding_length")
    head_length = embedding_length // most_heads if embedding_length and most_heads else None
    key_length = _integer(pairs, f"{architecture}.attention.key_length") or head_length
    value_length = _integer(pairs, f"{architecture}.attention.value_length") or head_length
    if key_length is None or value_length is None or not cached_heads:
        return None
    return sum(cached_heads[:layers]) * (key_length + value_length) * _KV_BYTES


def _parameter_count(header: Header) -> int:
    return sum(math.prod(tensor.shape) for tensor in header.tensors)


def _integer(pairs: Mapping[str, Any], key: str) -> int | None:
    value = pairs.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _text(pairs: Mapping[str, Any], key: str) -> str:
    value = pairs.get(key)
    return value if isinstance(value, str) else ""

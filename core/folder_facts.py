"""What the small files of a folder model say of it: ONNX Runtime GenAI's, sentence-transformers' and transformers'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from corral.core.errors import InvalidModelFile
from corral.core.malformed import MALFORMED
from corral.core.models import TemplateText
from corral.core.values import Value

__all__ = ("FACT_FILES", "FolderFacts", "folder_facts")

_GENAI, _MODEL = "genai_config.json", "config.json"
_TOKENIZER, _TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
_SENTENCES, _MODULES = "sentence_bert_config.json", "modules.json"

FACT_FILES = frozenset({_GENAI, _MODEL, _TOKENIZER, _TEMPLATE, _SENTENCES, _MODULES})
"""The paths that `folder_facts` looks at."""

_UNBOUNDED_TOKENS = 10**9  # transformers writes 10**30 for "no limit"


class FolderFacts(Value, frozen=True, kw_only=True):
    """What was found; fields as in `ModelRecord`. Nothing found leaves a field empty."""

    family: str = ""
    context_length: int | None = None
    embedding_length: int | None = None
    template: TemplateText | None = None
    capabilities: tuple[str, ...] = ()


def folder_facts(texts: Mapping[str, bytes]) -> FolderFacts:
    """Reads the files of `FACT_FILES` that are there, by path. Raises `InvalidModelFile` for one that is broken.

    A folder with ``genai_config.json`` generates. One without is a sentence encoder, unless ``config.json`` names a
    model that generates or classifies.
    """
    genai, model, tokenizer = (_read(texts, path) for path in (_GENAI, _MODEL, _TOKENIZER))
    if genai is not None:
        inner = _object(genai.get("model"))
        return FolderFacts(
            family=_text(inner.get("type")) or _text(_object(model).get("model_type")),
            context_length=_count(inner.get("context_length")),
            embedding_length=_count(_object(inner.get("decoder")).get("hidden_size")),
            template=_template(texts.get(_TEMPLATE), _object(tokenizer)),
            capabilities=("completion",),
        )
    sentences = _object(_read(texts, _SENTENCES))
    known = _object(model)
    kinds = [kind for kind in _list(known.get("architectures")) if isinstance(kind, str)]
    encodes = _MODULES in texts or not any("For" in kind for kind in kinds)
    lengths = (
        sentences.get("max_seq_length"),
        known.get("max_position_embeddings"),
        _object(tokenizer).get("model_max_length"),
    )
    return FolderFacts(
        family=_text(known.get("model_type")),
        context_length=next((count for length in lengths if (count := _count(length)) is not None), None),
        embedding_length=_count(known.get("hidden_size")),
        capabilities=("embedding",) if encodes else (),
    )


def _template(separate: bytes | None, tokenizer: Mapping[str, Any]) -> TemplateText | None:
    """The file of its own first; of several named ones in the tokenizer's settings, ``default``."""
    text = separate.decode("utf-8", "replace") if separate is not None else ""
    found = tokenizer.get("chat_template")
    if not text and isinstance(found, list):
        named = {_text(_object(one).get("name")): _object(one).get("template") for one in found}
        found = named.get("default")
    text = text or _text(found)
    if not text:
        return None
    return TemplateText(
        kind="jinja", text=text, bos_text=_token(tokenizer, "bos_token"), eos_text=_token(tokenizer, "eos_token")
    )


def _token(tokenizer: Mapping[str, Any], key: str) -> str:
    token = tokenizer.get(key)
    return _text(token.get("content")) if isinstance(token, dict) else _text(token)


def _read(texts: Mapping[str, bytes], path: str) -> dict[str, Any] | None:
    data = texts.get(path)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except MALFORMED as error:
        raise InvalidModelFile(f"{path} is malformed: {error}", "download the model again") from error


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 < value < _UNBOUNDED_TOKENS else None

"""Reads the small files of a folder model: those of ONNX Runtime GenAI, sentence-transformers and transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from corral.core.errors import InvalidModelFile
from corral.core.malformed import MALFORMED
from corral.core.models.model import TemplateText
from corral.core.values import Value

__all__ = ("FACT_FILES", "FolderFacts", "folder_facts")

_GENAI, _MODEL = "genai_config.json", "config.json"
_TOKENIZER, _TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
_TOOLS, _TOOLS_TEMPLATE = "tool_use", "additional_chat_templates/tool_use.jinja"
_SENTENCES, _MODULES = "sentence_bert_config.json", "modules.json"

FACT_FILES = frozenset({_GENAI, _MODEL, _TOKENIZER, _TEMPLATE, _TOOLS_TEMPLATE, _SENTENCES, _MODULES})
"""The paths that `folder_facts` reads."""

_UNBOUNDED_TOKENS = 10**9  # transformers writes 10**30 for "no limit"


_FAMILY_LIMIT = 256  # characters

T = TypeVar("T")

_EMPTY = msgspec.Raw(b"null")


class _Fields(msgspec.Struct, frozen=True):
    """The fields that are read from any of these files. Everything else is skipped, whatever its size."""

    model: msgspec.Raw = _EMPTY
    type: msgspec.Raw = _EMPTY
    decoder: msgspec.Raw = _EMPTY
    context_length: msgspec.Raw = _EMPTY
    hidden_size: msgspec.Raw = _EMPTY
    model_type: msgspec.Raw = _EMPTY
    architectures: msgspec.Raw = _EMPTY
    id2label: msgspec.Raw = _EMPTY
    num_labels: msgspec.Raw = _EMPTY
    max_position_embeddings: msgspec.Raw = _EMPTY
    max_seq_length: msgspec.Raw = _EMPTY
    model_max_length: msgspec.Raw = _EMPTY
    chat_template: msgspec.Raw = _EMPTY
    bos_token: msgspec.Raw = _EMPTY
    eos_token: msgspec.Raw = _EMPTY
    content: msgspec.Raw = _EMPTY


class _NamedTemplate(msgspec.Struct, frozen=True):
    name: str = ""
    template: str = ""


_NOTHING = _Fields()


class FolderFacts(Value, frozen=True, kw_only=True):
    """What was found; fields as in `Model`, empty if nothing was found."""

    family: str = ""
    context_length: int | None = None
    embedding_length: int | None = None
    template: TemplateText | None = None
    capabilities: tuple[str, ...] = ()


def folder_facts(texts: Mapping[str, bytes]) -> FolderFacts:
    """Reads the files of `FACT_FILES` that exist; `texts` are their contents by path. Raises `InvalidModelFile`.

    A folder with ``genai_config.json`` is a generator. Any other is a sentence encoder, unless ``config.json`` names a
    model that generates or classifies; a classifier with one label is a reranker.
    """
    genai, model, tokenizer = (_read(texts, path) for path in (_GENAI, _MODEL, _TOKENIZER))
    if _GENAI in texts:
        inner = _inner(genai.model)
        return FolderFacts(
            family=_family(inner.type) or _family(model.model_type),
            context_length=_count(inner.context_length),
            embedding_length=_count(_inner(inner.decoder).hidden_size),
            template=_template(texts, tokenizer),
            capabilities=("completion",),
        )
    sentences = _read(texts, _SENTENCES)
    kinds = _value(model.architectures, list[str], [])
    encodes = _MODULES in texts or not any("For" in kind for kind in kinds)
    lengths = (sentences.max_seq_length, model.max_position_embeddings, tokenizer.model_max_length)
    return FolderFacts(
        family=_family(model.model_type),
        context_length=next((count for length in lengths if (count := _count(length)) is not None), None),
        embedding_length=_count(model.hidden_size),
        template=_template(texts, tokenizer) if _TEMPLATE in texts else None,
        capabilities=("embedding",) if encodes else ("rerank",) if _has_one_label(model, kinds) else (),
    )


def _has_one_label(model: _Fields, kinds: Sequence[str]) -> bool:
    """Whether a classifier gives one score, as a cross-encoder does; transformers states labels unless they are two."""
    classifies = any(kind.endswith("ForSequenceClassification") for kind in kinds)
    labels = len(_value(model.id2label, dict[str, msgspec.Raw], {})) or _count(model.num_labels)
    return classifies and labels == 1


def _template(texts: Mapping[str, bytes], tokenizer: _Fields) -> TemplateText | None:
    """From the separate files, else from the tokenizer's settings; if those have several, the one named ``default``,
    and ``tool_use`` for tools.
    """
    named = {one.name: one.template for one in _value(tokenizer.chat_template, list[_NamedTemplate], [])}
    text = texts.get(_TEMPLATE, b"").decode("utf-8", "replace")
    text = text or named.get("default") or _text(tokenizer.chat_template)
    if not text:
        return None
    tools_text = texts.get(_TOOLS_TEMPLATE, b"").decode("utf-8", "replace") or named.get(_TOOLS, "")
    bos_text, eos_text = _token(tokenizer.bos_token), _token(tokenizer.eos_token)
    return TemplateText(kind="jinja", text=text, bos_text=bos_text, eos_text=eos_text, tools_text=tools_text)


def _token(token: msgspec.Raw) -> str:
    return _text(token) or _text(_inner(token).content)


def _read(texts: Mapping[str, bytes], path: str) -> _Fields:
    """The fields of one file, all empty if it does not exist."""
    data = texts.get(path)
    if data is None:
        return _NOTHING
    try:
        return msgspec.json.decode(data, type=_Fields)
    except MALFORMED as error:
        raise InvalidModelFile(f"{path} is malformed: {error}", "download the model again") from error


def _value(raw: msgspec.Raw, kind: type[T], otherwise: T) -> T:
    """`otherwise` if it is missing or of another type: these files are often written by hand."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (*MALFORMED, OverflowError):
        return otherwise


def _inner(raw: msgspec.Raw) -> _Fields:
    return _value(raw, _Fields, _NOTHING)


def _text(raw: msgspec.Raw) -> str:
    return _value(raw, str, "")


def _family(raw: msgspec.Raw) -> str:
    """Empty for a text that is too long to be a family: lists of models show it."""
    text = _text(raw)
    return text if len(text) <= _FAMILY_LIMIT else ""


def _count(raw: msgspec.Raw) -> int | None:
    value = _value(raw, int, 0)
    return value if 0 < value < _UNBOUNDED_TOKENS else None

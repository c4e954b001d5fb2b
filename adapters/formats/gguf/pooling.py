"""How a model makes one vector, or one score, of the positions of a text."""

from __future__ import annotations

from corral.adapters.formats.gguf.header import Header
from corral.adapters.formats.gguf.tables import POOLING_TYPES

__all__ = ("has_classifier", "pooling_of")

_HEADS = frozenset({"cls.weight", "cls.output.weight"})
"""The tensors of a classifier, as llama.cpp names them (``LLM_TENSOR_CLS``, ``LLM_TENSOR_CLS_OUT``)."""


def has_classifier(header: Header) -> bool:
    """Whether there are weights that make a score of a vector."""
    return any(tensor.name in _HEADS for tensor in header.tensors)


def pooling_of(header: Header, architecture: str) -> str | None:
    """``none``, ``mean``, ``cls``, ``last`` or ``rank``; None for a model that generates text.

    A file of an encoder that does not say is a cross-encoder if it has a classifier: older conversions of bge-reranker
    are like that, and llama-server has to be told with ``--reranking``.
    """
    kind = header.pairs.get(f"{architecture}.pooling_type")
    if isinstance(kind, int) and not isinstance(kind, bool) and kind >= 0:
        return POOLING_TYPES.get(kind, str(kind))
    is_encoder = header.pairs.get(f"{architecture}.attention.causal") is False
    return "rank" if is_encoder and has_classifier(header) else None

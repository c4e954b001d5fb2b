"""Creates what computes embeddings, or scores if the model is a cross-encoder."""

from __future__ import annotations

from collections.abc import Callable

from corral.adapters.engine_kit.thread_tuning import ThreadTuner
from corral.adapters.engines.llama_cpp.context_settings import ContextSettings
from corral.adapters.engines.llama_cpp.embedding import LlamaEmbedder
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_context import ContextSize
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.adapters.engines.llama_cpp.query_pairs import query_pairs
from corral.adapters.engines.llama_cpp.rank_head import RankHead
from corral.adapters.engines.llama_cpp.tokenizer import LlamaTokenizer

__all__ = ("open_embedder",)

_INPUTS_AT_ONCE, _PAIRS_AT_ONCE = 8, 64
_TOKENS_AT_ONCE, _EXACT_PAIR_TOKENS = 512, 128
"""Without flash attention, the work per token grows with the tokens of all inputs of a batch."""


def open_embedder(
    model: LlamaModel,
    settings: ContextSettings,
    tokenizer: LlamaTokenizer,
    tuner: ThreadTuner,
    *,
    exact: bool,
    piece: Callable[[int], int] | None = None,
) -> LlamaEmbedder:
    """Its contexts are created later. With `exact`, each input of a model that generates is computed alone, and scores
    are not rounded.
    """
    head = RankHead(model) if model.ranks else None
    most = _INPUTS_AT_ONCE if head is None else _PAIRS_AT_ONCE

    def make_context(cells: int) -> LlamaContext:
        params = settings.embedding_params(cells)
        return LlamaContext(model, params, ContextSize(most, cells), num_ctx=settings.num_ctx, threads=tuner.threads)

    return LlamaEmbedder(
        make_context,
        tokenizer,
        sizes=settings.embedding_cells(),
        inputs_at_once=1 if settings.generates and exact else most,
        tokens_at_once=_EXACT_PAIR_TOKENS if model.ranks and exact else _TOKENS_AT_ONCE,
        tuner=tuner,
        piece=piece,
        pairs=None if head is None else query_pairs(tokenizer, model.chat_template("rerank")),
        head=head,
    )

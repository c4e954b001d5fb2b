"""Scores documents without weights: by the tokens that they share with the query."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from corral.adapters.engines.fake.tokenizer import FakeTokenizer
from corral.core.errors import PromptTooLong
from corral.core.requests.outputs import EngineFailed, EngineOutput, EngineRanked
from corral.core.requests.requests import RerankRequest

__all__ = ("ranked",)


def ranked(request: RerankRequest, tokenizer: FakeTokenizer, num_ctx: int) -> EngineOutput:
    """The answer to `request`, in a context of at most `num_ctx` tokens."""
    limit = min(request.num_ctx or num_ctx, num_ctx)
    [query] = tokenizer.encode([request.query])
    scores, tokens = [], 0
    for document in tokenizer.encode(request.documents):
        ids = document[1:]  # without BOS, which the query has already
        room = limit - len(query)
        if room < 1 or (len(ids) > room and not request.truncate):
            text = f"query and document have {len(query) + len(ids)} tokens, but the context holds {limit}"
            return EngineFailed(error=PromptTooLong(text, "shorten them, or raise num_ctx").info)
        scores.append(_score(query, ids[:room]))
        tokens += len(query) + min(len(ids), room)
    return EngineRanked(scores=tuple(scores), prompt_tokens=tokens)


def _score(query: Sequence[int], document: Sequence[int]) -> float:
    """Between -4, for nothing in common, and 4; and a little more or less, so that hardly two are equal."""
    wanted = set(query[1:])
    share = len(wanted & set(document)) / max(1, len(wanted))
    own = hashlib.blake2b(struct.pack(f"<{len(document)}i", *document), digest_size=2).digest()
    return 8.0 * share - 4.0 + int.from_bytes(own, "little") / 65536.0

"""What is wrong with pairs of a query and a document, which all rerankers say alike."""

from __future__ import annotations

from corral.core.errors import InvalidRequest, PromptTooLong

__all__ = ("empty_pair", "pair_too_long", "query_too_long")


def query_too_long(tokens: int, limit: int) -> PromptTooLong:
    """Of a query that takes so many tokens with all that goes around it, in a context of `limit`."""
    return PromptTooLong(
        f"the query takes {tokens} tokens, which leaves no room for a document in a context of {limit}",
        "shorten it, or raise num_ctx",
    )


def pair_too_long(tokens: int, limit: int) -> PromptTooLong:
    """Of a pair whose document must not be cut."""
    return PromptTooLong(
        f"query and document have {tokens} tokens, but the context holds {limit}",
        "shorten the document, raise num_ctx, or let it be cut (truncate)",
    )


def empty_pair() -> InvalidRequest:
    return InvalidRequest("query and document are empty, and this model adds no tokens of its own", "omit them")

"""``GET /markov/{model}/next?after=…``: which words may follow, and how likely each is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
from litestar import Request, Router, get

from corral.plugins import Runtime, Unsupported, parse_name
from corral_markov.chain import END, Chain, words_of

__all__ = ("Next", "next_words", "router")


class Next(msgspec.Struct, frozen=True, kw_only=True):
    """A word that may follow, null for the end of the sentence."""

    word: str | None
    probability: float


@get("/{model:str}/next")
async def next_words(request: Request[Any, Any, Any]) -> list[Next]:
    """The words that may follow, most likely first. Corral's errors become the same responses as on every route."""
    runtime: Runtime = request.app.state.runtime
    record = await runtime.catalog.get(parse_name(request.path_params["model"]))
    if record.format != "markov":
        raise Unsupported(f"{record.name} is not a Markov chain")
    async with runtime.catalog.loadable_files(record) as [file]:
        chain = await asyncio.to_thread(Chain.read, Path(file.path))
    following = chain.following(words_of(request.query_params.get("after", "")))
    total = sum(following.values())
    ranked = sorted(following.items(), key=lambda item: (-item[1], item[0]))
    return [Next(word=None if word == END else word, probability=count / total) for word, count in ranked]


router = Router(path="/markov", route_handlers=[next_words])

"""Wraps the search provider of a plugin: its exceptions become errors that name it, and its results are checked."""

from __future__ import annotations

from typing import Any

from corral.core.ports.web import SearchResult
from corral.plugins.guarded_parts import ours
from corral.plugins.plugin_results import validated

__all__ = ("GuardedSearch",)

_ANSWER_LIMIT_S = 60.0


class GuardedSearch:
    """A `SearchProvider`. What it does not answer in time is an error."""

    def __init__(self, provider: Any, where: str) -> None:
        self._provider = provider
        self._where = where

    async def search(self, query: str, max_results: int) -> tuple[SearchResult, ...]:
        import asyncio  # which the process of a model does without

        with ours(f"{self._where}: search"):
            async with asyncio.timeout(_ANSWER_LIMIT_S):
                found = await self._provider.search(query, max_results)
            results: tuple[SearchResult, ...] = validated(found, tuple[SearchResult, ...])
        return results

    async def aclose(self) -> None:
        with ours(f"{self._where}: aclose"):
            await self._provider.aclose()

"""The suite that every search provider must pass: `SearchProviderContract`."""

from __future__ import annotations

import asyncio

import pytest

from corral.core.ports.web import SearchProvider, SearchResult
from corral.core.web_errors import WebError

__all__ = ("SearchProviderContract",)

_QUERIES = (
    "corral",
    "what is a corral?",
    "\u00fcber & unter",
    "a\x00b",
    "x" * 2000,
    "<script>",
    "'; drop table --",
    "日本語",
)


class SearchProviderContract:
    """Subclass it and provide the fixtures `provider`; `query`, for which it finds at least three pages; and
    `unreachable`: a provider whose service does not answer.
    """

    @pytest.fixture
    def provider(self) -> SearchProvider:
        raise NotImplementedError("give a fixture called provider")

    @pytest.fixture
    def query(self) -> str:
        raise NotImplementedError("give a fixture called query")

    @pytest.fixture
    def unreachable(self) -> SearchProvider:
        raise NotImplementedError("give a fixture called unreachable")

    @pytest.mark.parametrize("most", [1, 3])
    def test_it_finds_pages(self, provider: SearchProvider, query: str, most: int) -> None:
        """Results have a title and the address of a page; there are no more than asked for."""
        found = asyncio.run(provider.search(query, most))
        assert isinstance(found, tuple)
        assert len(found) == most
        for result in found:
            assert isinstance(result, SearchResult)
            assert result.title
            assert result.url.startswith(("http://", "https://"))

    def test_the_best_come_first(self, provider: SearchProvider, query: str) -> None:
        """Fewer results are the beginning of more."""
        [best] = asyncio.run(provider.search(query, 1))
        assert asyncio.run(provider.search(query, 3))[0] == best

    @pytest.mark.parametrize("query", _QUERIES)
    def test_any_query_is_answered(self, provider: SearchProvider, query: str) -> None:
        """Whatever is searched for, the answer is results, or none."""
        assert len(asyncio.run(provider.search(query, 2))) <= 2

    def test_many_search_at_once(self, provider: SearchProvider, query: str) -> None:
        """Searches do not wait for each other's results, nor mix them up."""

        async def search() -> list[tuple[SearchResult, ...]]:
            return await asyncio.gather(*(provider.search(query, most) for most in (1, 2, 3)))

        assert [len(found) for found in asyncio.run(search())] == [1, 2, 3]

    def test_a_service_that_does_not_answer(self, unreachable: SearchProvider) -> None:
        """It is a `WebError` that says so."""
        with pytest.raises(WebError) as caught:
            asyncio.run(unreachable.search("corral", 1))
        assert str(caught.value)

    def test_it_is_closed_twice(self, provider: SearchProvider) -> None:
        """The second time does nothing."""

        async def close() -> None:
            await provider.aclose()
            await provider.aclose()

        asyncio.run(close())

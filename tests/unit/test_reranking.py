"""The use case of reranking, over fakes: what the model is asked, what is charged, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from corral.core.errors import EngineError, PromptTooLong, Unsupported
from corral.core.models.names import parse_name
from corral.core.requests.caller import Caller
from corral.core.requests.calls import GenerateCall, RerankCall, RerankResult
from corral.core.requests.outputs import Output, Ranked
from corral.core.requests.principal import Principal
from corral.core.requests.prompts import TextPart, prompt_text
from corral.core.requests.requests import Request, RerankRequest
from tests.unit.test_generation import _RECORD, Bench, FakeModel

_RERANKS = ("rerank",)


class Ranker(FakeModel):
    """Scores a document by its length, less `off`, and counts two tokens for each."""

    def __init__(self, *, error: PromptTooLong | None = None, off: float = 0.0, lost: int = 0) -> None:
        super().__init__(frozenset(_RERANKS), error)
        self.info = msgspec.structs.replace(self.info, features=frozenset({"batch", "tokenize"}))
        self._off, self._lost = off, lost

    async def run(self, request: Request) -> AsyncGenerator[Output, None]:
        assert isinstance(request, RerankRequest)
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        scores = [len(prompt_text(document)) - self._off for document in request.documents]
        yield Ranked(scores=tuple(scores[self._lost :]), prompt_tokens=2 * len(scores))


def bench_of(model: FakeModel, capabilities: tuple[str, ...] = _RERANKS) -> Bench:
    bench = Bench(capabilities=capabilities)
    bench.model = bench.scheduler.model = model
    return bench


def rerank(bench: Bench, *documents: str, **more: Any) -> RerankResult:
    call = RerankCall(**{"model": "tiny", "query": "q", "documents": documents, **more})
    return asyncio.run(bench.service.rerank(call))


def test_documents_are_scored_in_their_order() -> None:
    """There is one score per document, the tokens are counted, and options and caller reach the request."""
    bench = bench_of(Ranker())
    caller = Caller(principal=Principal(name="ann"))
    result = rerank(bench, "a", "ccc", "bb", truncate=False, options={"num_ctx": 50, "odd": 1}, caller=caller)
    assert (result.scores, result.prompt_tokens, result.load_ns) == ((1, 3, 2), 6, 42)
    assert (result.best_first, result.ignored_options) == ((1, 2, 0), ("odd",))
    documents = tuple((TextPart(text=text),) for text in ("a", "ccc", "bb"))
    query = (TextPart(text="q"),)
    asked = RerankRequest(query=query, documents=documents, truncate=False, num_ctx=50, caller=caller)
    assert bench.model.requests == [asked]
    assert bench.scheduler.active == 0


def test_equal_documents_stay_in_their_order() -> None:
    """The best comes first; those with the same score are listed as they were sent."""
    assert rerank(bench_of(Ranker()), "b", "aa", "c", "dd").best_first == (1, 3, 0, 2)


def test_long_lists_go_in_groups() -> None:
    """A hundred documents are one request if the engine batches; a long list is several, and its scores are joined.
    An engine that answers one request after another gets each document alone.
    """
    batching = bench_of(Ranker())
    assert rerank(batching, *("d" * n for n in range(100))).scores == tuple(range(100))
    assert len(batching.model.requests) == 1
    assert rerank(batching, *("d" * n for n in range(300))).scores == tuple(range(300))
    assert len(batching.model.requests) == 1 + 3
    one_by_one = bench_of(Ranker())
    one_by_one.model.info = msgspec.structs.replace(one_by_one.model.info, features=frozenset())
    assert rerank(one_by_one, "a", "bb").scores == (1, 2)
    assert len(one_by_one.model.requests) == 2


def test_without_documents_it_only_loads() -> None:
    """The model is leased, and asked nothing."""
    bench = bench_of(Ranker())
    assert rerank(bench).scores == ()
    assert (len(bench.scheduler.asked), bench.model.requests) == (1, [])


def test_a_model_that_is_no_reranker_is_refused_before_it_is_loaded() -> None:
    """The error names it as it was typed, and the rerankers that there are, but none that the caller may not use."""
    bench = bench_of(Ranker(), ("completion",))
    with pytest.raises(Unsupported, match='"tiny" does not support rerank') as caught:
        rerank(bench, "a")
    assert "there is none here" in str(caught.value.remedy)
    secret = msgspec.structs.replace(_RECORD, name=parse_name("secret"))
    views = {"tiny": ("completion",), "secret": _RERANKS}
    catalog = bench.catalog
    looked_up = catalog.view

    async def view(name: Any) -> Any:
        return msgspec.structs.replace(await looked_up(name), capabilities=views[name.model])

    async def records() -> Any:
        return [_RECORD, secret]

    catalog.view, catalog.list = view, records  # type: ignore[method-assign]
    with pytest.raises(Unsupported) as caught:
        rerank(bench, "a")
    assert caught.value.remedy == "use a reranker: secret:latest"
    with pytest.raises(Unsupported) as caught:
        rerank(bench, "a", caller=Caller(principal=Principal(name="ann", models=("tiny",))))
    assert "secret" not in str(caught.value.remedy)
    assert not bench.scheduler.asked


def test_an_engine_that_was_asked_for_decides_itself() -> None:
    """With `engine`, the model is loaded, and refused if that engine does not rerank with it."""
    bench = bench_of(FakeModel(frozenset({"completion"})), ("completion",))
    with pytest.raises(Unsupported, match='"tiny" does not support rerank') as caught:
        rerank(bench, "a", engine="fake")
    assert "runs on fake" in str(caught.value.remedy)
    assert bench.scheduler.active == 0
    assert rerank(bench_of(Ranker(), ("completion",)), "a", engine="fake").scores == (1,)


@pytest.mark.parametrize("model", [Ranker(off=float("nan")), Ranker(off=float("inf")), Ranker(lost=1)])
def test_scores_that_make_no_sense_are_an_error(model: Ranker) -> None:
    """NaN, infinity and a missing score are the engine's fault, and no answer."""
    with pytest.raises(EngineError, match="tiny"):
        rerank(bench_of(model), "a", "b")


def test_a_text_that_is_too_long_is_refused() -> None:
    """The engine's complaint is passed on; a text whose size says enough does not even reach the engine."""
    with pytest.raises(PromptTooLong, match="9 tokens"):
        rerank(bench_of(Ranker(error=PromptTooLong("9 tokens, 4 fit"))), "a")
    bench = bench_of(Ranker())
    bench.model.info = msgspec.structs.replace(bench.model.info, longest_token_bytes=1)
    with pytest.raises(PromptTooLong):
        rerank(bench, "a" * 200, truncate=False)
    assert not bench.model.requests
    assert rerank(bench, "a" * 200).scores == (200,)


def test_a_model_without_text_does_not_chat() -> None:
    """A reranker is refused as an embedding model is, before it is loaded."""
    bench = bench_of(Ranker())
    with pytest.raises(Unsupported, match='"tiny" does not support generate'):
        asyncio.run(bench.service.generate(GenerateCall(model="tiny", prompt="a")))
    assert not bench.scheduler.asked

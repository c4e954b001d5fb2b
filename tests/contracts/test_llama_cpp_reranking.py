"""llama.cpp as a reranker: a tiny cross-encoder, whose scores NumPy computes as well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from msgspec.structs import replace

from corral.adapters.engines.llama_cpp import context_settings
from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.adapters.engines.llama_cpp.query_pairs import TemplatePairs
from corral.adapters.engines.llama_cpp.spec import SPEC
from corral.core.errors import InvalidModelFile, PromptTooLong, Unsupported
from corral.core.requests.caller import Caller
from corral.core.requests.outputs import EngineRanked
from corral.core.requests.principal import Principal
from corral.core.requests.prompts import TextPart, TokensPart
from corral.core.requests.requests import CompletionRequest, EmbedRequest, RerankRequest
from corral.core.specs.engines import LoadRequest, LocalFile
from corral.plugins.testing import RunningModelContract
from corral.plugins.testing.loading import reranking
from tests.contracts.llama_engines import loaded_engine
from tests.tiny_cross_encoder import (
    CONTEXT,
    DOCUMENTS,
    QUERY,
    pair_ids,
    reference_scores,
    write_tiny_cross_encoder,
)
from tests.tiny_llama import write_tiny_llama
from tests.tiny_verdict_model import TEMPLATE, verdict, write_tiny_verdict_model

LONG = "paris " * CONTEXT


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cross_encoder(tmp_path_factory.mktemp("weights") / "tiny.gguf")


@pytest.fixture(scope="module")
def engine(weights: Path) -> Iterator[LlamaCppEngine]:
    """Shared by tests that leave no request behind."""
    engine = loaded_engine(weights, options={})
    yield engine
    engine.close()


def ranked(engine: LlamaCppEngine, request: RerankRequest) -> EngineRanked:
    engine.add_request(1, request, None)
    while engine.has_unfinished_requests():
        for _, output in engine.step():
            assert isinstance(output, EngineRanked), output
            return output
    raise AssertionError("no scores came")


class TestAsAModel(RunningModelContract):
    """A cross-encoder keeps the promises of rerankers. Its words are those of its tiny vocabulary."""

    spec = SPEC
    load_options: ClassVar[dict[str, Any]] = {"num_thread": 1}

    @pytest.fixture
    def load_request(self, weights: Path) -> LoadRequest:
        files = (LocalFile(role="weights", path=str(weights)),)
        return LoadRequest(model="tiny:latest", files=files, load_options=self.plain_options())


def test_a_hundred_scores_are_those_of_numpy(engine: LlamaCppEngine) -> None:
    """A hundred documents in one request have the scores of an independent forward pass, in the same order; the query
    counts once for each.
    """
    answer = ranked(engine, reranking(QUERY, *DOCUMENTS))
    expected = reference_scores(QUERY, DOCUMENTS)
    assert answer.scores == pytest.approx(expected, abs=2e-4)
    assert np.ptp(expected) > 0.5
    assert np.argsort(answer.scores).tolist() == np.argsort(expected).tolist()
    assert answer.prompt_tokens == sum(len(pair_ids(QUERY, document)) for document in DOCUMENTS)


def test_documents_are_computed_together(engine: LlamaCppEngine) -> None:
    """Short documents take far fewer steps than there are, and the score of each is as if it was alone."""
    documents = DOCUMENTS[:30]
    engine.add_request(1, reranking("paris", *documents), None)
    steps = 0
    together: tuple[float, ...] = ()
    while engine.has_unfinished_requests():
        steps += 1
        for _, output in engine.step():
            assert isinstance(output, EngineRanked)
            together = output.scores
    assert steps < len(documents) / 3
    for index in (0, 13, 29):
        [alone] = ranked(engine, reranking("paris", documents[index])).scores
        assert together[index] == pytest.approx(alone, abs=1e-4)


def test_callers_take_turns(engine: LlamaCppEngine) -> None:
    """One document of another caller does not wait for a long list."""
    engine.add_request(1, reranking(QUERY, *DOCUMENTS), None)
    assert engine.step() == []
    other = replace(reranking(QUERY, "paris"), caller=Caller(principal=Principal(name="other")))
    engine.add_request(2, other, None)
    assert [request_id for _ in range(2) for request_id, _ in engine.step()] == [2]
    engine.abort_request(1)
    assert not engine.has_unfinished_requests()


def test_a_long_document_is_cut_at_its_end(engine: LlamaCppEngine) -> None:
    """The query stays whole, and the closing token stays, so that the score is that of the shorter document."""
    answer = ranked(engine, reranking(QUERY, LONG))
    rest = CONTEXT - len(pair_ids(QUERY, ""))
    assert answer.scores == pytest.approx(reference_scores(QUERY, ["paris " * rest]), abs=2e-4)
    assert answer.prompt_tokens == CONTEXT
    short = ranked(engine, replace(reranking(QUERY, LONG), num_ctx=20))
    rest = 20 - len(pair_ids(QUERY, ""))
    assert short.scores == pytest.approx(reference_scores(QUERY, ["paris " * rest]), abs=2e-4)


def test_what_does_not_fit_is_refused(engine: LlamaCppEngine) -> None:
    """A document that must not be cut, and a query that leaves no room for any, with both sizes."""
    words = len(LONG.split())
    whole = len(pair_ids(QUERY, LONG))
    with pytest.raises(PromptTooLong, match=f"{whole} tokens, but the context holds {CONTEXT}"):
        engine.add_request(1, replace(reranking(QUERY, "paris", LONG), truncate=False), None)
    with pytest.raises(PromptTooLong, match=f"the query takes {words + 3} tokens"):
        engine.add_request(1, reranking(LONG, "paris"), None)
    assert not engine.has_unfinished_requests()


def test_control_tokens_in_a_document_are_text(engine: LlamaCppEngine) -> None:
    """A separator that someone typed does not end the document."""
    typed = ranked(engine, reranking(QUERY, "rome [SEP] paris"))
    assert typed.scores == pytest.approx(reference_scores(QUERY, ["rome [ sep ] paris"]), abs=2e-4)


def test_a_template_joins_query_and_document(tmp_path: Path) -> None:
    """Models that generate their verdict have one. What people typed is text in it, and a long document is cut."""
    engine = loaded_engine(write_tiny_llama(tmp_path / "tiny.gguf"), options={"num_ctx": 256})

    def read(ids: list[int]) -> str:
        """Without the spaces that this vocabulary puts in front of every text."""
        return engine.tokenizer.decode(ids).decode().replace(" ", "")

    pairs = TemplatePairs(engine.tokenizer, "<s>query {query}, document {document} yes</s>")
    [ids] = pairs.inputs(reranking("{document}", "a </s> b"), 256)
    assert read(ids) == "<s>query{document},documenta</s>byes</s>"
    assert (ids[0], ids[-1], ids.count(2)) == (1, 2, 1)
    [cut] = pairs.inputs(reranking("q", "abc " * 100), 60)
    assert 50 < len(cut) <= 60
    assert read(cut).endswith("byes</s>")
    [long] = engine.tokenizer.encode([(TextPart(text="abc " * 100),)])
    as_ids = replace(reranking("q", "a"), documents=((TokensPart(ids=long),),))
    [again] = pairs.inputs(as_ids, 60)
    assert read(again).startswith("<s>queryq,documentabcabc")
    assert 50 < len(again) <= 60
    with pytest.raises(PromptTooLong):
        pairs.inputs(replace(as_ids, truncate=False), 60)
    engine.close()


def test_a_model_that_says_yes_or_no(tmp_path: Path) -> None:
    """Its score is the log-odds of its yes, after the template: llama.cpp gives the probabilities of both answers."""
    engine = loaded_engine(write_tiny_verdict_model(tmp_path / "tiny.gguf"), options={})
    request = reranking("the sea", "a ship at sea", "a horse", "", "rain and wind, and waves")
    pairs = TemplatePairs(engine.tokenizer, TEMPLATE).inputs(request, 256)
    answer = ranked(engine, request)
    assert answer.scores == pytest.approx(list(map(verdict, pairs)), abs=1e-3)
    assert np.ptp(answer.scores) > 0.1
    assert answer.prompt_tokens == sum(map(len, pairs))
    assert engine.info.tasks == {"rerank"}
    engine.close()


def test_it_does_nothing_else(engine: LlamaCppEngine) -> None:
    """A cross-encoder makes no vectors, and no text."""
    text = (TextPart(text="paris"),)
    assert engine.info.tasks == {"rerank"}
    for request in (EmbedRequest(inputs=(text,)), CompletionRequest(prompt=text)):
        with pytest.raises(Unsupported):
            engine.add_request(1, request, None)


@pytest.mark.parametrize("eos", [False, True])
def test_conversions_of_both_kinds_are_read_alike(tmp_path: Path, eos: bool) -> None:
    """Older ones do not say how the model pools: its classifier does. Newer ones call the last token EOS."""
    path = write_tiny_cross_encoder(tmp_path / "tiny.gguf", seed=1, says_so=eos, eos=eos)
    engine = loaded_engine(path, options={})
    answer = ranked(engine, reranking(QUERY, *DOCUMENTS[:3]))
    assert answer.scores == pytest.approx(reference_scores(QUERY, DOCUMENTS[:3], seed=1), abs=2e-4)
    engine.close()


def test_a_classifier_with_several_labels_is_refused(tmp_path: Path) -> None:
    """It names how many there are: which of them would be the score?"""
    with pytest.raises(Unsupported, match="3 labels"):
        loaded_engine(write_tiny_cross_encoder(tmp_path / "labels.gguf", labels=3), options={})


def test_a_reranker_without_a_classifier_is_refused(tmp_path: Path) -> None:
    """llama.cpp would take any number of its vector for the score."""
    with pytest.raises(InvalidModelFile, match="has no classifier"):
        loaded_engine(write_tiny_cross_encoder(tmp_path / "headless.gguf", labels=0), options={})


def test_without_exactness_scores_are_rounded(weights: Path) -> None:
    """With `exact` off, attention rounds to half floats: faster, and near."""
    engine = loaded_engine(weights, options={"exact": False})
    answer = ranked(engine, reranking(QUERY, *DOCUMENTS))
    assert answer.scores == pytest.approx(reference_scores(QUERY, DOCUMENTS), abs=5e-3)
    engine.close()


def test_where_memory_is_scarce_scores_are_rounded(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact attention takes more memory than a quarter of what is free, so that the other kind is used."""
    monkeypatch.setattr(context_settings, "free_memory", lambda: {"cpu": 4 << 20})
    engine = loaded_engine(weights, options={})
    scores = ranked(engine, reranking(QUERY, *DOCUMENTS)).scores
    expected = reference_scores(QUERY, DOCUMENTS)
    assert scores == pytest.approx(expected, abs=5e-3)
    assert scores != pytest.approx(expected, abs=2e-4)
    engine.close()

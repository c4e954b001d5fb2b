"""Cross-encoders in ONNX: a tiny one, whose scores NumPy computes as well."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from msgspec.structs import replace

from corral import Corral
from corral.adapters.engines.onnx_embeddings.spec import SPEC
from corral.core.catalog.new_models import folder_model
from corral.core.errors import InvalidModelFile, InvalidRequest
from corral.core.models.folders import scan_folder
from corral.core.models.onnx_outputs import onnx_outputs
from corral.core.ports.engines import StepEngine
from corral.core.requests.caller import Caller
from corral.core.requests.outputs import EngineRanked
from corral.core.requests.principal import Principal
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import RerankRequest
from corral.core.specs.engines import LoadRequest, LocalFile
from corral.plugins.testing import RunningModelContract
from corral.plugins.testing.loading import reranking
from tests.tiny_cross_encoder import DOCUMENTS, QUERY, pair_ids
from tests.tiny_onnx_cross_encoder import onnx_reference_scores, write_onnx_cross_encoder

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
tokenizers = pytest.importorskip("tokenizers")

from corral.adapters.engines.onnx_embeddings.loader import load  # noqa: E402
from corral.adapters.engines.onnx_embeddings.tokenizer import EncoderTokenizer  # noqa: E402


def request_for(folder: Path, **options: object) -> LoadRequest:
    files = tuple(
        LocalFile(
            role="weights" if path.suffix == ".onnx" else "config", path=str(path), name=str(path.relative_to(folder))
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    return LoadRequest(model="tiny:latest", files=files, load_options={"num_thread": 1, **options})


def loaded(folder: Path, **options: object) -> StepEngine:
    return load(request_for(folder, **options), lambda share: None)


def ranked(engine: StepEngine, request: RerankRequest) -> EngineRanked:
    engine.add_request(1, request, None)
    while engine.has_unfinished_requests():
        for _, output in engine.step():
            assert isinstance(output, EngineRanked), output
            return output
    raise AssertionError("no scores came")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx_cross_encoder(tmp_path_factory.mktemp("onnx") / "tiny-reranker")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[StepEngine]:
    """Shared by tests that leave no request behind."""
    engine = loaded(folder)
    yield engine
    engine.close()


class TestAsAModel(RunningModelContract):
    """A cross-encoder keeps the promises of rerankers. Its words are those of its tiny vocabulary."""

    spec = SPEC
    load_options: ClassVar[dict[str, Any]] = {"num_thread": 1}

    @pytest.fixture
    def load_request(self, folder: Path) -> LoadRequest:
        return replace(request_for(folder), load_options=self.plain_options())


def test_a_hundred_scores_are_those_of_numpy(engine: StepEngine) -> None:
    """A hundred documents in one request have the scores of an independent forward pass, in the same order; the query
    counts once for each.
    """
    answer = ranked(engine, reranking(QUERY, *DOCUMENTS))
    expected = onnx_reference_scores(QUERY, DOCUMENTS)
    assert answer.scores == pytest.approx(expected, abs=1e-4)
    assert np.ptp(expected) > 0.5
    assert np.argsort(answer.scores).tolist() == np.argsort(expected).tolist()
    assert answer.prompt_tokens == sum(len(pair_ids(QUERY, document)) for document in DOCUMENTS)


def test_pairs_are_those_of_the_tokenizer(folder: Path) -> None:
    """Ids and types are what `tokenizers` makes of a query and a document, empty and odd ones too."""
    tokenizer = EncoderTokenizer(folder / "tokenizer.json", None)
    direct = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    query = tokenizer.bare((TextPart(text=QUERY),))
    for document in (*DOCUMENTS, "", "Café, 日本"):
        ids, second = tokenizer.pair(query, tokenizer.bare((TextPart(text=document),)))
        expected = direct.encode(QUERY, document)
        assert ids == expected.ids
        assert [int(place >= second) for place in range(len(ids))] == expected.type_ids


def test_a_graph_without_types_gets_none(tmp_path: Path) -> None:
    """Its scores are those of tokens of type 0."""
    engine = loaded(write_onnx_cross_encoder(tmp_path, typed=False))
    scores = ranked(engine, reranking(QUERY, *DOCUMENTS[:5])).scores
    assert scores == pytest.approx(onnx_reference_scores(QUERY, DOCUMENTS[:5], typed=False), abs=1e-4)
    assert scores != pytest.approx(onnx_reference_scores(QUERY, DOCUMENTS[:5]), abs=1e-4)
    engine.close()


def test_a_score_does_not_depend_on_its_company(engine: StepEngine) -> None:
    """With `exact`, a score is bit-identical alone, among others of one request, and beside other requests."""
    alone = [ranked(engine, reranking(QUERY, document)).scores[0] for document in DOCUMENTS]
    requests = reranking(QUERY, *DOCUMENTS[:60]), reranking("paris", *DOCUMENTS), reranking(QUERY, *DOCUMENTS[60:])
    for request_id, request in enumerate(requests):
        engine.add_request(request_id, request, None)
    found: dict[int, EngineRanked] = {}
    while engine.has_unfinished_requests():
        found |= {request_id: output for request_id, output in engine.step() if isinstance(output, EngineRanked)}
    together = [*found[0].scores, *found[2].scores]
    if "exact" in engine.info.features:
        assert together == alone
    else:
        assert together == pytest.approx(alone, abs=1e-5)


def test_documents_are_computed_together_and_callers_take_turns(engine: StepEngine) -> None:
    """A hundred short documents take few steps; one of another caller that comes later takes at most two."""
    documents = [f"{document} {QUERY} {QUERY}" for document in DOCUMENTS * 20]
    engine.add_request(1, reranking(QUERY, *documents), None)
    assert engine.step() == []
    other = replace(reranking(QUERY, "paris"), caller=Caller(principal=Principal(name="other")))
    engine.add_request(2, other, None)
    assert 2 in [request_id for _ in range(2) for request_id, _ in engine.step()]
    engine.abort_request(1)
    assert not engine.has_unfinished_requests()
    engine.add_request(1, reranking(QUERY, *DOCUMENTS), None)
    steps = 0
    while engine.has_unfinished_requests():
        engine.step()
        steps += 1
    assert steps < len(DOCUMENTS) / 3


def test_a_graph_with_one_logit_ranks_if_no_file_says_so(tmp_path: Path) -> None:
    """It is recognised when it is imported, also after its manifest was read again; a copy is one as well."""
    folder = write_onnx_cross_encoder(tmp_path / "folder", config={})
    with Corral(models=tmp_path / "store", config="") as corral:
        corral.import_model(folder, name="plain")
        corral.copy("plain", "copy")
    with Corral(models=tmp_path / "store", config="") as corral:
        for name in ("plain", "copy"):
            assert corral.show(name).capabilities == ("rerank",)
        found = corral.rerank("copy", QUERY, DOCUMENTS[:5])
    expected = onnx_reference_scores(QUERY, DOCUMENTS[:5])
    assert {one.index: one.score for one in found.documents} == pytest.approx(dict(enumerate(expected)), abs=1e-4)


@pytest.mark.parametrize(
    ("labels", "files", "complaint"),
    [
        (2, {}, "neither sentence_embedding nor token vectors"),
        (1, {"modules.json": "[]", "1_Pooling/config.json": '{"pooling_mode_cls_token": true}'}, "token vectors"),
    ],
)
def test_other_logits_are_no_scores(tmp_path: Path, labels: int, files: dict[str, str], complaint: str) -> None:
    """Those of several labels, and those of a folder that says how vectors are pooled."""
    folder = write_onnx_cross_encoder(tmp_path / "folder", labels=labels, config={})
    for path, text in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    assert folder_model(folder, scan_folder(folder)).capabilities == ()
    with pytest.raises(InvalidModelFile, match=complaint):
        loaded(folder)


def test_outputs_of_a_graph_are_read_from_its_file(folder: Path, tmp_path: Path) -> None:
    """Names and shapes, without its weights; a file that was cut has none, and none that was changed is an error."""
    data = (folder / "model.onnx").read_bytes()
    assert onnx_outputs(folder / "model.onnx") == {"logits": (None, 1)}
    broken = tmp_path / "broken.onnx"
    source = random.Random(7)
    for _ in range(40):
        broken.write_bytes(data[: source.randrange(len(data) - 40)])
        assert onnx_outputs(broken) == {}
        changed = bytearray(data)
        for place in (source.randrange(40), -source.randrange(1, 200)):
            changed[place] = source.randrange(256)
        broken.write_bytes(changed)
        assert all(isinstance(shape, tuple) for shape in onnx_outputs(broken).values())


def test_a_tokenizer_that_cannot_join_texts(tmp_path: Path) -> None:
    """It is reported as the file's fault."""
    folder = write_onnx_cross_encoder(tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A", pair="$B [SEP] $A", special_tokens=[("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(InvalidModelFile, match="how a query and a document are joined"):
        loaded(folder)


def test_a_pair_of_nothing_is_refused(tmp_path: Path) -> None:
    """A tokenizer that adds nothing to two empty texts leaves nothing to compute."""
    folder = write_onnx_cross_encoder(tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    tokenizer.save(str(folder / "tokenizer.json"))
    engine = loaded(folder)
    with pytest.raises(InvalidRequest, match="query and document are empty"):
        engine.add_request(1, reranking(" ", "paris", ""), None)
    assert not engine.has_unfinished_requests()
    engine.close()


def test_a_model_that_lacks_a_type_of_its_tokenizer(tmp_path: Path) -> None:
    """It is detected at load, before any request fails."""
    with pytest.raises(InvalidModelFile, match="failed a test computation"):
        loaded(write_onnx_cross_encoder(tmp_path, types=1))

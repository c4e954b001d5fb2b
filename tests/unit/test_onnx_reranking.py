"""Cross-encoders in ONNX Runtime: pairs of texts with their types, long ones, and folders that are rerankers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from corral import Corral
from corral.adapters.engines.onnx_embeddings.spec import SPEC, OnnxEmbeddingsOptions
from corral.core.errors import InvalidModelFile, PromptTooLong, Unsupported
from corral.core.models.digests import digest_of
from corral.core.models.folder_facts import folder_facts
from corral.core.models.model import Model, ModelFile
from corral.core.ports.engines import StepEngine
from corral.core.requests.outputs import EngineRanked
from corral.core.requests.prompts import TextPart, TokensPart
from corral.core.requests.requests import EmbedRequest, RerankRequest
from corral.core.specs.engines import LoadRequest, LocalFile
from corral.plugins.testing.loading import reranking

np = pytest.importorskip("numpy")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
tokenizers = pytest.importorskip("tokenizers")

from corral.adapters.engines.onnx_embeddings.loader import load  # noqa: E402

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]
VALUES = [100.0, 50.0, 0.25, -0.5, 1.0, -2.0, 4.0, -8.0]
CONFIG = (
    '{"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}, "max_position_embeddings": 16}'
)

Maker = Callable[..., StepEngine]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Maker]:
    """Loads a model whose score is the sum of its tokens' values, those of the second type doubled."""
    made: list[StepEngine] = []

    def loaded(*, labels: int = 1, output: str = "logits", types: bool = True) -> StepEngine:
        helper, kinds = onnx.helper, onnx.TensorProto
        names = ("input_ids", "attention_mask", "token_type_ids")
        nodes = [
            helper.make_node("Gather", ["table", "input_ids"], ["values"]),
            helper.make_node("Add", ["token_type_ids", "attention_mask"], ["counts"]),
            helper.make_node("Cast", ["counts"], ["factors"], to=kinds.FLOAT),
            helper.make_node("Unsqueeze", ["factors", "last"], ["columns"]),
            helper.make_node("Mul", ["values", "columns"], ["weighted"]),
            helper.make_node("ReduceSum", ["weighted", "axes"], [output], keepdims=0),
        ]
        graph = helper.make_graph(
            nodes,
            "scores",
            [helper.make_tensor_value_info(name, kinds.INT64, ("batch", "sequence")) for name in names],
            [helper.make_tensor_value_info(output, kinds.FLOAT, ("batch", labels))],
            [
                onnx.numpy_helper.from_array(np.asarray([[value] * labels for value in VALUES], np.float32), "table"),
                onnx.numpy_helper.from_array(np.asarray([1], np.int64), "axes"),
                onnx.numpy_helper.from_array(np.asarray([-1], np.int64), "last"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, tmp_path / "model.onnx")
        tokenizer = tokenizers.Tokenizer(
            tokenizers.models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")
        )
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        second = ":1" if types else ""
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair=f"[CLS] $A [SEP] $B{second} [SEP]{second}",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        tokenizer.add_special_tokens(WORDS[:4])
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "config.json").write_text(CONFIG)
        files = tuple(
            LocalFile(role="weights" if path.suffix == ".onnx" else "config", path=str(path), name=path.name)
            for path in tmp_path.iterdir()
        )
        made.append(load(LoadRequest(model="tiny", files=files, load_options={"num_thread": 1}), lambda share: None))
        return made[-1]

    yield loaded
    for engine in made:
        engine.close()


def ranked(engine: StepEngine, request: RerankRequest) -> EngineRanked:
    engine.add_request(1, request, None)
    while True:
        for _, output in engine.step():
            assert isinstance(output, EngineRanked), output
            return output


def expected(query: str, document: str, *, factor: float = 2.0) -> float:
    """What the graph computes, by hand."""
    values = dict(zip(WORDS, VALUES, strict=True))
    first = [values["[CLS]"], *(values[word] for word in query.split()), values["[SEP]"]]
    return sum(first) + factor * (sum(values[word] for word in document.split()) + values["[SEP]"])


DOCUMENTS: Sequence[str] = ("c", "a b c d", "", "d d d a", "b")


@pytest.mark.parametrize("types", [True, False])
def test_pairs_have_types_as_the_tokenizer_says(make: Maker, types: bool) -> None:
    """The document is of the second type in BERT, and of the first in models that have one; scores are in order."""
    engine = make(types=types)
    answer = ranked(engine, reranking("a b", *DOCUMENTS))
    factor = 2.0 if types else 1.0
    assert answer.scores == pytest.approx([expected("a b", document, factor=factor) for document in DOCUMENTS])
    assert answer.prompt_tokens == sum(5 + len(document.split()) for document in DOCUMENTS)
    assert engine.info.tasks == {"rerank"}
    assert engine.info.details["pooling"] == "a classifier"


def test_long_documents_are_cut_and_long_queries_refused(make: Maker) -> None:
    """The query and the closing token stay; without `truncate`, the error has both sizes."""
    engine = make()
    long = reranking("a b", "c " * 40)
    assert ranked(engine, long).scores == pytest.approx([expected("a b", "c " * 11)])
    assert ranked(engine, replace(long, num_ctx=8)).scores == pytest.approx([expected("a b", "c " * 3)])
    with pytest.raises(PromptTooLong, match="45 tokens, but the context holds 16"):
        engine.add_request(1, replace(long, truncate=False), None)
    with pytest.raises(PromptTooLong, match="the query takes 43 tokens"):
        engine.add_request(1, reranking("a " * 40, "b"), None)
    assert not engine.has_unfinished_requests()


def test_texts_as_ids_and_typed_control_tokens(make: Maker) -> None:
    """Long texts come as ids with the tokens around them, which are not repeated; a separator that was typed stays
    text."""
    engine = make()
    request = reranking("a b", "c d")
    query, document = engine.tokenizer.encode((request.query, request.documents[0]))  # type: ignore[union-attr]
    as_ids = replace(request, query=(TokensPart(ids=query),), documents=((TokensPart(ids=document),),))
    assert ranked(engine, as_ids) == ranked(engine, request)
    assert ranked(engine, reranking("a", "[SEP]")).scores != pytest.approx([expected("a", "[SEP]")])


def test_it_only_ranks(make: Maker) -> None:
    """A cross-encoder makes no vectors."""
    with pytest.raises(Unsupported, match="only does rerank"):
        make().add_request(1, EmbedRequest(inputs=((TextPart(text="a"),),)), None)


@pytest.mark.parametrize(
    ("graph", "complaint"), [({"labels": 3}, "3 labels"), ({"output": "last_hidden_state"}, "does not return logits")]
)
def test_graphs_that_give_no_score(make: Maker, graph: dict[str, Any], complaint: str) -> None:
    """They are refused at load, with what they lack."""
    with pytest.raises(InvalidModelFile, match=complaint):
        make(**graph)


@pytest.mark.parametrize(
    ("config", "capabilities"),
    [
        (CONFIG, ("rerank",)),
        ('{"architectures": ["BertForSequenceClassification"], "num_labels": 1}', ("rerank",)),
        ('{"architectures": ["BertForSequenceClassification"], "num_labels": 3}', ()),
        ('{"architectures": ["BertForSequenceClassification"]}', ()),  # two labels
        ('{"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}}', ()),
        ('{"architectures": ["BertForTokenClassification"], "id2label": {"0": "a"}}', ()),
        ('{"architectures": ["BertModel"], "id2label": {"0": "a"}}', ("embedding",)),
    ],
)
def test_a_classifier_with_one_label_is_a_reranker(config: str, capabilities: tuple[str, ...]) -> None:
    """What the folder's config says makes the capability, and the capability the engine."""
    assert folder_facts({"config.json": config.encode()}).capabilities == capabilities
    files = tuple(
        ModelFile(role="weights", media_type="", digest=digest_of(path.encode()), size_bytes=1, path=path)
        for path in ("model.onnx", "tokenizer.json")
    )
    model = Model(format="onnx", files=files, capabilities=capabilities)
    assert (SPEC.match(model, None, OnnxEmbeddingsOptions()).score == 100) == bool(capabilities)


def test_an_imported_folder_ranks(make: Maker, tmp_path: Path) -> None:
    """The library imports the folder, knows that it is a reranker, and puts documents in order with it."""
    make()
    with Corral(models=tmp_path / "store", config="") as corral:
        record = corral.import_model(tmp_path, name="scores")
        assert corral.show(record.name.short).capabilities == ("rerank",)
        found = corral.rerank("scores", "a b", DOCUMENTS, top_n=3)
    best = sorted(DOCUMENTS, key=lambda document: -expected("a b", document))[:3]
    assert [document.text for document in found.documents] == best
    assert found.documents[0].score == pytest.approx(expected("a b", best[0]))

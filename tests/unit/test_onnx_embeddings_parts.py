"""Parts of the ONNX embeddings engine: which models it takes, batches, pooling, and graphs of every shape it meets."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.engines.onnx_embeddings.spec import SPEC, OnnxEmbeddingsOptions
from corral.adapters.stores.model_folders import ModelFolders
from corral.core.errors import InvalidModelFile
from corral.core.models.digests import digest_of
from corral.core.models.model import ModelFile, StoredModel
from corral.core.models.names import parse_name
from corral.core.ports.engines import StepEngine
from corral.core.requests.outputs import EngineEmbedded, EngineFailed
from corral.core.requests.prompts import TextPart, TokensPart
from corral.core.requests.requests import EmbedRequest
from corral.core.requests.vectors import rows
from corral.core.specs.engines import LoadRequest, LocalFile

np = pytest.importorskip("numpy")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
tokenizers = pytest.importorskip("tokenizers")

from corral.adapters.engines.onnx_embeddings.batching import Batcher, EmbeddingJob  # noqa: E402
from corral.adapters.engines.onnx_embeddings.loader import load  # noqa: E402
from corral.adapters.engines.onnx_embeddings.pooling import normalised, pooled  # noqa: E402

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]
WIDTH = 3
TABLE = [[float(row), float(row * row), 1.0] for row in range(len(WORDS))]


def _record(*paths: str, **more: Any) -> StoredModel:
    files = tuple(
        ModelFile(
            role="weights" if path.endswith(".onnx") else "config",
            media_type="",
            digest=digest_of(path.encode()),
            size_bytes=1000,
            path=path,
        )
        for path in paths
    )
    fields: dict[str, Any] = {"format": "onnx", "capabilities": ("embedding",)}
    return StoredModel(
        name=parse_name("m"), digest=digest_of(b""), size_bytes=0, modified_at=0.0, files=files, **{**fields, **more}
    )


def test_it_takes_sentence_encoders() -> None:
    """An ONNX model with a tokenizer that is not a generator matches; every other model gets a reason why not."""
    assert SPEC.match(_record("model.onnx", "tokenizer.json"), None, OnnxEmbeddingsOptions()).score == 100
    others = [
        _record("model.onnx"),
        _record("model.onnx", "tokenizer.json", "genai_config.json"),
        _record("model.onnx", "tokenizer.json", capabilities=()),
        _record("model.gguf", "tokenizer.json", format="gguf"),
    ]
    matches = [SPEC.match(record, None, OnnxEmbeddingsOptions()) for record in others]
    assert [match.score for match in matches] == [0, 0, 0, 0]
    assert len({match.reason for match in matches}) == 4


def test_weights_of_few_bits_are_estimated_unpacked() -> None:
    """They take several times their file's size in memory."""
    plain, small = (_record("model.onnx", quantization=text) for text in ("", "INT8"))
    options = OnnxEmbeddingsOptions()
    assert SPEC.estimate(small, None, options)["cpu"] > SPEC.estimate(plain, None, options)["cpu"] > 1000


@pytest.mark.parametrize(
    ("loaded", "wanted", "fits"),
    [
        ({}, {}, True),
        ({}, {"num_ctx": 64}, True),
        ({"num_ctx": 64}, {"num_ctx": 128}, False),
        ({"num_ctx": 64}, {}, False),
        ({"num_thread": 2}, {"num_thread": 0}, True),
        ({"num_thread": 2}, {"num_thread": 4}, False),
        ({}, {"provider": "cuda"}, False),
    ],
)
def test_what_needs_another_load(loaded: dict[str, Any], wanted: dict[str, Any], fits: bool) -> None:
    """A loaded model serves requests for the default or less; a full-length request does not fit a shorter one."""
    assert SPEC.fits is not None
    assert SPEC.fits(OnnxEmbeddingsOptions(**loaded), OnnxEmbeddingsOptions(**wanted)) is fits


# ── Batches ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _job(request_id: int, *lengths: int) -> EmbeddingJob:
    return EmbeddingJob(request_id, [[1] * length for length in lengths])


def _sizes(batch: list[tuple[EmbeddingJob, int]]) -> list[tuple[int, int]]:
    return [(job.request_id, len(job.texts[place])) for job, place in batch]


def test_a_batch_holds_texts_of_like_length() -> None:
    """The longest texts come first, as many as the budget allows including padding; then the shorter ones."""
    batcher = Batcher(step_s=1.0, tokens_per_s=100)
    batcher.add(_job(1, 10, 50, 45, 5, 40))
    assert _sizes(batcher.next()) == [(1, 50), (1, 45)]
    assert _sizes(batcher.next()) == [(1, 40), (1, 10)]
    assert _sizes(batcher.next()) == [(1, 5)]
    assert batcher.next() == []


def test_jobs_lead_in_turn() -> None:
    """A job with many texts does not keep another waiting for more than one step."""
    batcher = Batcher(step_s=1.0, tokens_per_s=64)
    batcher.add(_job(1, 60, 60, 60))
    batcher.add(_job(2, 3))
    assert [_sizes(batcher.next()) for _ in range(4)] == [[(1, 60)], [(2, 3)], [(1, 60)], []]
    assert _sizes(batcher.next()) == [(1, 60)]


def test_other_jobs_fill_a_batch_where_little_padding_is_needed() -> None:
    """Texts of more than half the length join; much shorter and longer ones wait."""
    batcher = Batcher(step_s=1.0, tokens_per_s=1000)
    batcher.add(_job(1, 40))
    batcher.add(_job(2, 39, 30, 4))
    batcher.add(_job(3, 90))
    assert _sizes(batcher.next()) == [(1, 40), (2, 39), (2, 30)]


def test_a_text_beyond_the_budget_goes_alone() -> None:
    """However slow the machine, every step computes something."""
    batcher = Batcher(step_s=0.1, tokens_per_s=1)
    batcher.add(_job(1, 500, 400))
    assert _sizes(batcher.next()) == [(1, 500)]


def test_steps_find_their_length() -> None:
    """A slow machine gets smaller batches, a fast one larger ones."""
    batcher = Batcher(step_s=1.0, tokens_per_s=1000)
    batcher.add(_job(1, *[100] * 200))
    first = len(batcher.next())
    for _ in range(20):
        batcher.took(1000, 5.0)
    slow = len(batcher.next())
    for _ in range(20):
        batcher.took(1000, 0.2)
    assert slow < first < len(batcher.next())


# ── Pooling ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("ways", "expected"),
    [
        (("cls",), [1.0, -4.0]),
        (("lasttoken",), [3.0, 2.0]),
        (("max",), [3.0, 2.0]),
        (("mean",), [2.0, -1.0]),
        (("mean_sqrt_len",), [6 / 3**0.5, -3 / 3**0.5]),
        (("weightedmean",), [(1 + 4 + 9) / 6, (-4 - 2 + 6) / 6]),
        (("cls", "max"), [1.0, -4.0, 3.0, 2.0]),
    ],
)
def test_pooling(ways: tuple[str, ...], expected: list[float]) -> None:
    """Each pooling method, computed by hand, and two joined."""
    tokens = np.asarray([[1.0, -4.0], [2.0, -1.0], [3.0, 2.0]], dtype=np.float32)
    assert pooled(tokens, ways).tolist() == pytest.approx(expected)


def test_normalising() -> None:
    """Length 1; zeros stay zeros."""
    assert normalised(np.asarray([3.0, 4.0], dtype=np.float32)).tolist() == pytest.approx([0.6, 0.8])
    assert normalised(np.zeros(2, dtype=np.float32)).tolist() == [0.0, 0.0]


# ── Graphs ────────────────────────────────────────────────────────────────────────────────────────────────────────

Encoder = Callable[..., Path]


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    """Makes a folder with a model that looks up each id in a table of three columns."""

    def make_folder(
        *,
        inputs: tuple[str, ...] = ("input_ids", "attention_mask"),
        shape: tuple[object, ...] = ("batch", "sequence"),
        integers: int = onnx.TensorProto.INT64,
        output: str = "last_hidden_state",
        pooled_by_graph: bool = False,
        closing: bool = True,
        more_rows: int = 0,
        **files: str,
    ) -> Path:
        helper = onnx.helper
        rank = ["batch", WIDTH] if pooled_by_graph else ["batch", "sequence", WIDTH]
        nodes = [helper.make_node("Gather", ["table", "input_ids"], ["found" if pooled_by_graph else output])]
        if pooled_by_graph:
            nodes.append(helper.make_node("ReduceMax", ["found", "axes"], [output], keepdims=0))
        graph = helper.make_graph(
            nodes,
            "encoder",
            [helper.make_tensor_value_info(name, integers, shape) for name in inputs],
            [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, rank)],
            [
                onnx.numpy_helper.from_array(
                    np.asarray([*TABLE, *[[0.0] * WIDTH] * more_rows], dtype=np.float32), "table"
                ),
                onnx.numpy_helper.from_array(np.asarray([1], dtype=np.int64), "axes"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, tmp_path / "model.onnx")
        tokenizer = tokenizers.Tokenizer(
            tokenizers.models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")
        )
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        if closing:
            tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
                single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
            )
        tokenizer.add_special_tokens(WORDS[:4])
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "1_Pooling.json").write_text('{"pooling_mode_mean_tokens": true}')
        for name, text in files.items():
            (tmp_path / f"{name}.json").write_text(text)
        return tmp_path

    return make_folder


def _load(folder: Path) -> StepEngine:
    names = {path: path.name.replace("1_Pooling.json", "1_Pooling/config.json") for path in folder.iterdir()}
    files = tuple(
        LocalFile(role="weights" if path.suffix == ".onnx" else "config", path=str(path), name=name)
        for path, name in names.items()
    )
    return load(LoadRequest(model="tiny", files=files, load_options={"num_thread": 1}), lambda share: None)


def _vectors(engine: StepEngine, *texts: str) -> list[list[float]]:
    engine.add_request(1, EmbedRequest(inputs=tuple((TextPart(text=text),) for text in texts)), None)
    while True:
        for _, output in engine.step():
            assert isinstance(output, EngineEmbedded)
            return [list(row) for row in rows(output.vectors)]


def _mean(*ids: int) -> list[float]:
    columns: list[list[float]] = np.asarray([TABLE[token_id] for token_id in ids])
    mean: list[float] = np.mean(columns, axis=0).tolist()
    return mean


def test_padding_does_not_count(encoder: Encoder) -> None:
    """Texts of several lengths in one batch each get the mean of their own tokens."""
    engine = _load(encoder())
    assert _vectors(engine, "a", "a b c d", "b c") == [
        pytest.approx(_mean(2, 4, 3)),
        pytest.approx(_mean(2, 4, 5, 6, 7, 3)),
        pytest.approx(_mean(2, 5, 6, 3)),
    ]
    assert "exact" in engine.info.features
    engine.close()


def test_a_text_that_cannot_be_computed_fails_its_own_request(encoder: Encoder) -> None:
    """Others in the batch get their vectors: the table lacks a row for an id that config.json includes."""
    engine = _load(encoder(config='{"vocab_size": 1001}', more_rows=1000 - len(TABLE)))
    parts: tuple[TextPart | TokensPart, ...] = (TextPart(text="a"), TokensPart(ids=(1000,)), TextPart(text="b"))
    for request_id, part in enumerate(parts):
        engine.add_request(request_id, EmbedRequest(inputs=((part,),)), None)
    answers = dict(engine.step())
    assert [type(answers[request_id]) for request_id in range(3)] == [EngineEmbedded, EngineFailed, EngineEmbedded]
    assert not engine.has_unfinished_requests()
    engine.close()


def test_a_table_that_lacks_much_of_the_vocabulary(encoder: Encoder) -> None:
    """It is detected at load, and reported as the file's fault."""
    with pytest.raises(InvalidModelFile, match="failed a test computation"):
        _load(encoder(config='{"vocab_size": 1001}'))


def test_int32_and_token_types_are_fed_as_the_graph_wants_them(encoder: Encoder) -> None:
    """Inputs are matched by name and type."""
    folder = encoder(inputs=("token_type_ids", "input_ids", "attention_mask"), integers=onnx.TensorProto.INT32)
    engine = _load(folder)
    assert _vectors(engine, "a") == [pytest.approx(_mean(2, 4, 3))]
    engine.close()


def test_finished_vectors_of_the_graph_are_taken(encoder: Encoder) -> None:
    """An output called sentence_embedding is not pooled again, even if the pipeline defines its own steps."""
    modules = '[{"type": "x.Pooling", "path": "1_Pooling"}, {"type": "x.Dense", "path": "2_Dense"}]'
    engine = _load(encoder(output="sentence_embedding", pooled_by_graph=True, modules=modules))
    assert engine.info.details["pooling"] == "the graph's own"
    assert _vectors(engine, "a d") == [[7.0, 49.0, 1.0]]
    engine.close()


@pytest.mark.parametrize(
    ("graph", "complaint"),
    [
        ({"inputs": ("input_ids", "pixel_values")}, "pixel_values"),
        ({"inputs": ("input_ids",), "integers": onnx.TensorProto.INT8}, r"tensor\(int8\)"),
        ({"shape": (1, "sequence")}, "fixed batch or text size"),
        ({"output": "logits", "pooled_by_graph": True}, "neither sentence_embedding nor"),
        ({"modules": '[{"type": "x.Dense"}]'}, "steps after its graph that are not supported: Dense"),
    ],
)
def test_graphs_that_are_no_sentence_encoders(encoder: Encoder, graph: dict[str, Any], complaint: str) -> None:
    """What is missing is reported as the file's fault."""
    with pytest.raises(InvalidModelFile, match=complaint):
        _load(encoder(**graph))


@pytest.mark.parametrize("symbolic", [False, True])
def test_data_beside_the_graph_is_found_in_a_folder_of_the_store(tmp_path: Path, symbolic: bool) -> None:
    """It refuses data that is a link out of the model's folder, but accepts a folder that consists of links only."""
    helper = onnx.helper
    table = onnx.numpy_helper.from_array(np.asarray(TABLE, dtype=np.float32), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["found"])],
        "encoder",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("found", onnx.TensorProto.FLOAT, ["n", WIDTH])],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    made = tmp_path / "made"
    made.mkdir()
    onnx.save(model, made / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    blobs = {path.name: path for path in made.iterdir()}
    if symbolic:
        other = Path("/dev/shm")
        if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if symbolic else tmp_path) as place:
        folders = ModelFolders(Path(place, "folders"), Path(place, "tmp"))
        folder = asyncio.run(folders.show(digest_of(b"key"), blobs))
        assert all(path.is_symlink() is symbolic for path in folder.iterdir())
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        assert session.run(None, {"ids": np.asarray([5])})[0].tolist() == [[5.0, 25.0, 1.0]]


def test_positions_of_roberta_begin_after_the_padding(encoder: Encoder) -> None:
    """Its table of positions is longer than a text may be."""
    engine = _load(encoder(config='{"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}'))
    assert engine.info.context_length == 512
    engine.close()


def test_a_limit_of_ten_to_the_thirty_is_none(encoder: Encoder) -> None:
    """The value that transformers writes for an unknown length. The usual length applies then, because memory grows
    with its square.
    """
    engine = _load(encoder(tokenizer_config='{"model_max_length": 1000000000000000019884624838656}'))
    assert engine.info.context_length == 512
    engine.close()


def test_a_limit_below_zero_is_none(encoder: Encoder) -> None:
    """A padding token beyond the table of positions would leave no position at all."""
    config = '{"model_type": "roberta", "max_position_embeddings": 4, "pad_token_id": 9}'
    engine = _load(encoder(config=config))
    assert engine.info.context_length == 512
    engine.close()

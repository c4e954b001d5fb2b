"""The ONNX Runtime embeddings engine with real weights: its contract, vectors against NumPy, exactness, failures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from corral.adapters.engines.onnx_embeddings.loader import devices, load
from corral.adapters.engines.onnx_embeddings.spec import SPEC
from corral.api.library import Corral
from corral.core.errors import (
    CorralError,
    InvalidModelFile,
    InvalidOption,
    InvalidRequest,
    PromptTooLong,
    Unsupported,
)
from corral.core.ports.engines import StepEngine
from corral.core.requests.outputs import EngineEmbedded, EngineFailed
from corral.core.requests.prompts import TextPart, TokensPart
from corral.core.requests.requests import CompletionRequest, EmbedRequest
from corral.core.requests.vectors import rows as rows_of
from corral.core.scheduling.load_options import typed_load_options
from corral.core.specs.engines import LoadRequest, LocalFile
from tests.checkpoints.files import read_safetensors
from tests.reference_models.bert import sentence_vectors

pytestmark = pytest.mark.native

Floats = npt.NDArray[np.float32]

SENTENCES = (Path(__file__).parents[1] / "data" / "sentences.txt").read_text(encoding="utf-8").splitlines()
CLS, SEP = 101, 102


def folder_request(folder: Path, **options: object) -> LoadRequest:
    files = tuple(
        LocalFile(
            role="weights" if path.suffix == ".onnx" else "config",
            path=str(path),
            name=path.relative_to(folder).as_posix(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    return LoadRequest(model="encoder", files=files, load_options={"num_thread": 2, **options})


def make(folder: Path, **options: object) -> StepEngine:
    return load(folder_request(folder, **options), lambda share: None)


def request(*texts: str, **more: Any) -> EmbedRequest:
    return EmbedRequest(inputs=tuple((TextPart(text=text),) for text in texts), **more)


def answers(engine: StepEngine, *requests: EmbedRequest) -> list[EngineEmbedded]:
    """Runs the requests together and returns the answer of each."""
    found: dict[int, EngineEmbedded] = {}
    for request_id, asked in enumerate(requests):
        engine.add_request(request_id, asked, None)
    while engine.has_unfinished_requests():
        for request_id, output in engine.step():
            assert isinstance(output, EngineEmbedded), output
            found[request_id] = output
    return [found[request_id] for request_id in range(len(requests))]


def matrix(answer: EngineEmbedded) -> Floats:
    return np.asarray(list(rows_of(answer.vectors)), dtype=np.float32)


def test_vectors_agree_with_an_independent_forward_pass(minilm: Path, minilm_int8: Path) -> None:
    """For 100 sentences, each vector has a cosine of 0.99 or more to NumPy's, and 95 have the same nearest
    neighbour."""
    from tokenizers.implementations import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(str(minilm / "vocab.txt"), lowercase=True)
    config = json.loads((minilm / "config.json").read_bytes())
    tensors = read_safetensors(minilm / "model.safetensors")
    expected = sentence_vectors(config, tensors, [tokenizer.encode(sentence).ids for sentence in SENTENCES])
    engine = make(minilm_int8)
    found = matrix(answers(engine, request(*SENTENCES))[0])
    engine.close()
    assert len(SENTENCES) == 100
    assert np.linalg.norm(found, axis=1) == pytest.approx(1.0, abs=1e-5)
    cosines = (found * expected).sum(axis=1)
    assert cosines.min() >= 0.99
    neighbours = [(vectors @ vectors.T - 2 * np.eye(100)).argmax(axis=1) for vectors in (found, expected)]
    assert (neighbours[0] == neighbours[1]).sum() >= 95


def test_from_a_folder_to_a_vector(minilm_int8: Path, tmp_path: Path) -> None:
    """Imported into a store and requested by name, the model gives the same vector as its folder."""
    with Corral(models=tmp_path) as corral:
        record = corral.import_model(minilm_int8)
        assert record.name.short == "all-minilm-l6-v2:int8"
        assert (record.family, record.quantization, record.context_length) == ("bert", "INT8", 256)
        assert corral.show(record.name.short).capabilities == ("embedding",)
        embedded = corral.embed(record.name.short, ["a horse in the field", "the moon"])
        with pytest.raises(Unsupported, match="does not support"):
            corral.generate(record.name.short, "Hello")
    engine = make(minilm_int8)
    [direct] = answers(engine, request("a horse in the field", "the moon"))
    engine.close()
    assert np.asarray(embedded.vectors) == pytest.approx(matrix(direct), abs=1e-6)
    assert embedded.usage.prompt_tokens == direct.prompt_tokens


# ── One engine for many tests ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def loaded(minilm_int8: Path) -> StepEngine:
    return make(minilm_int8)


@pytest.fixture
def engine(loaded: StepEngine) -> Iterator[StepEngine]:
    """Loaded once. A test leaves no request behind, since the next one uses the same ids."""
    assert not loaded.has_unfinished_requests()
    yield loaded
    for request_id in range(3):
        loaded.abort_request(request_id)


def test_a_vector_does_not_depend_on_its_company(engine: StepEngine) -> None:
    """With `exact`, a vector is bit-identical alone, among others of one request, and beside other requests."""
    texts = [SENTENCES[number] for number in (0, 5, 94, 95, 99)]
    alone = np.concatenate([matrix(answers(engine, request(text))[0]) for text in texts])
    together = matrix(answers(engine, request(*texts))[0])
    crowd = answers(engine, request(*SENTENCES[20:60]), request(*texts), request(*SENTENCES[60:80]))
    if "exact" in engine.info.features:
        assert (alone == together).all()
        assert (alone == matrix(crowd[1])).all()
    else:
        assert alone == pytest.approx(together, abs=1e-5)
        assert alone == pytest.approx(matrix(crowd[1]), abs=1e-5)


def test_a_short_request_does_not_wait_for_a_long_one(engine: StepEngine) -> None:
    """A request that arrives later is answered within two steps, however many texts another one has left."""
    engine.add_request(1, request(*["a long text of many words " * 20] * 40), None)
    engine.step()
    engine.add_request(2, request("short"), None)
    answered = [request_id for _ in range(2) for request_id, _ in engine.step()]
    assert 2 in answered


def test_an_aborted_request_is_gone_within_a_step(engine: StepEngine) -> None:
    """After an abort no output follows, aborting an unknown id does nothing, and others continue."""
    engine.add_request(1, request(*["a long text of many words " * 20] * 12), None)
    engine.add_request(2, request("short"), None)
    engine.step()
    engine.abort_request(1)
    engine.abort_request(77)
    seen = set()
    steps = 0
    while engine.has_unfinished_requests():
        seen |= {request_id for request_id, _ in engine.step()}
        steps += 1
    assert seen <= {2}
    assert steps <= 2


def test_long_texts_are_cut_or_refused(engine: StepEngine) -> None:
    """Past the model's 256 tokens, or the request's limit, the end is cut but [SEP] stays; without truncate it is an
    error.
    """
    assert engine.info.context_length == 256
    long = "word " * 400
    [cut] = answers(engine, request(long))
    [same] = answers(engine, request("word " * 254))
    assert cut.prompt_tokens == 256
    assert (matrix(cut) == matrix(same)).all()
    [shorter] = answers(engine, request(long, num_ctx=16))
    assert shorter.prompt_tokens == 16
    [longer] = answers(engine, request(long, num_ctx=4096))
    assert longer.prompt_tokens == 256
    for asked in (request(long, truncate=False), request("word " * 20, truncate=False, num_ctx=16)):
        with pytest.raises(PromptTooLong):
            engine.add_request(9, asked, None)
    assert not engine.has_unfinished_requests()


def test_control_tokens_in_a_text_stay_text(engine: StepEngine) -> None:
    """ "[SEP]" is five characters in typed text, and the token in a template."""
    assert engine.tokenizer is not None
    typed, meant = engine.tokenizer.encode(
        [(TextPart(text="a [SEP] b"),), (TextPart(text="a [SEP] b", parse_special=True),)]
    )
    assert SEP not in typed[1:-1]
    assert SEP in meant[1:-1]
    assert (typed[0], typed[-1]) == (CLS, SEP)


def test_ids_are_taken_as_they_are(engine: StepEngine) -> None:
    """A prompt that is already tokenized gives the same vector; [CLS] and [SEP] are not added twice."""
    assert engine.tokenizer is not None
    [ids] = engine.tokenizer.encode([(TextPart(text="The cat sat on the mat."),)])
    prompts = ((TokensPart(ids=ids),), (TokensPart(ids=ids[1:-1]),), (TextPart(text="The cat sat on the mat."),))
    [answer] = answers(engine, EmbedRequest(inputs=prompts))
    found = matrix(answer)
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()
    assert answer.prompt_tokens == 3 * len(ids)
    assert b"cat sat" in engine.tokenizer.decode(ids)
    with pytest.raises(InvalidRequest, match="not in the vocabulary"):
        engine.add_request(9, EmbedRequest(inputs=((TokensPart(ids=(10**6,)),),)), None)


def test_odd_inputs(engine: StepEngine) -> None:
    """An empty text, an empty list and a request for another task are refused."""
    [answer] = answers(engine, request("", " "))
    assert (answer.vectors.count, answer.prompt_tokens) == (2, 4)
    [empty] = answers(engine, request())
    assert (empty.vectors.count, empty.vectors.dimensions) == (0, 384)
    with pytest.raises(Unsupported):
        engine.add_request(9, CompletionRequest(prompt=(TextPart(text="x"),)), None)


def test_a_closed_engine_fails_its_requests(minilm_int8: Path) -> None:
    """Closing twice is fine; a later request fails with a clear error, and nothing crashes."""
    engine = make(minilm_int8)
    engine.add_request(1, request("x"), None)
    engine.close()
    engine.close()
    assert not engine.has_unfinished_requests()
    engine.add_request(2, request("x"), None)
    [(request_id, output)] = engine.step()
    assert request_id == 2
    assert isinstance(output, EngineFailed)


def test_the_devices_are_told() -> None:
    """The CPU is always listed."""
    assert "cpu" in {device.kind for device in devices()}


# ── Folders that are not as they should be ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def changed(minilm_int8: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the folder with files replaced, or left out (None)."""

    def make_copy(**files: bytes | None) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(minilm_int8, folder)
        for name, data in files.items():
            path = folder / name.replace("__", "/").replace("_json", ".json").replace("_onnx", ".onnx")
            path.unlink(missing_ok=True)
            if data is not None:
                path.write_bytes(data)
        return folder

    return make_copy


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"tokenizer_json": None}, r"no tokenizer\.json"),
        ({"tokenizer_json": b"{}"}, r"tokenizer\.json cannot be read"),
        ({"model_onnx": None}, "needs one .onnx file"),
        ({"other_onnx": b"\x08"}, "needs one .onnx file"),
        ({"model_onnx": b"\x08\x08nonsense"}, r"model\.onnx"),
        ({"model_onnx": b""}, r"model\.onnx"),
        ({"1_Pooling__config_json": b'{"pooling_mode_by_magic": true}'}, "pooling_mode_by_magic"),
        ({"1_Pooling__config_json": b"[]"}, r"config\.json cannot be read"),
        ({"modules_json": b'[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]'}, "Dense"),
    ],
)
def test_broken_folders_are_told(changed: Callable[..., Path], files: dict[str, bytes | None], complaint: str) -> None:
    """Each missing part is named, as an error in the model's files."""
    with pytest.raises(InvalidModelFile, match=complaint):
        make(changed(**files))


def test_a_provider_that_is_not_there(minilm_int8: Path) -> None:
    """An unknown provider is InvalidOption, which lists those there are."""
    with pytest.raises(InvalidOption) as caught:
        make(minilm_int8, provider="abacus")
    assert "CPU" in (caught.value.remedy or "")


def test_a_length_that_cannot_be_meant() -> None:
    """A context without a token is refused before anything is loaded."""
    with pytest.raises(InvalidOption, match="num_ctx 0 is too small"):
        typed_load_options(SPEC, {"num_ctx": 0})


def test_pooling_and_length_are_as_the_files_say(changed: Callable[..., Path]) -> None:
    """[CLS] pooling without normalisation gives vectors of other lengths; a smaller limit truncates."""
    folder = changed(
        **{
            "1_Pooling__config_json": b'{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}',
            "modules_json": b'[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]',
            "sentence_bert_config_json": b'{"max_seq_length": 8}',
        }
    )
    engine = make(folder)
    [answer] = answers(engine, request("word " * 100))
    engine.close()
    assert (answer.vectors.dimensions, answer.prompt_tokens) == (768, 8)
    assert np.linalg.norm(matrix(answer)) > 1.1
    assert engine.info.details["pooling"] == "cls + max"
    assert engine.info.context_length == 8


def test_without_a_word_on_pooling_the_mean_is_assumed(changed: Callable[..., Path]) -> None:
    """Without a pooling file the mean is used, as in sentence-transformers, and the model's details say that it was
    assumed."""
    engine = make(changed(modules_json=None, **{"1_Pooling__config_json": None}))
    assert engine.info.details["pooling"] == "mean (assumed)"
    engine.close()


def test_errors_are_ours(changed: Callable[..., Path]) -> None:
    """A truncated model is an error of this project, whatever ONNX Runtime calls it."""
    folder = changed()
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorralError):
        make(folder)

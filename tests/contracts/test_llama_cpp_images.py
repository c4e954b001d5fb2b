"""Images in the llama.cpp engine, with a tiny model of each kind whose weights are random: everything is computed."""

from __future__ import annotations

import ctypes
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import llama_cpp as C
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from llama_cpp import mtmd_cpp as M
from PIL import Image

from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.adapters.engines.llama_cpp.loader import load
from corral.adapters.engines.llama_cpp.projector import Projector
from corral.adapters.runners.frames import Abort, Add, Close
from corral.adapters.runners.stepping import Command, Stepper
from corral.core.errors import InvalidRequest, PromptTooLong, Unsupported
from corral.core.requests.outputs import Delta, EngineFinished, Finished, Prefilled, Started, Token
from corral.core.requests.prompts import MediaPart, TextPart
from corral.core.requests.requests import CompletionRequest, ContextPolicy, SamplingParams
from corral.core.specs.engines import LoadRequest, LocalFile
from corral.core.stepping.loops import Outcome, StepLoop
from corral.plugins.testing.images import png_bytes
from corral.plugins.testing.vision_model import ProjectorKind, projector_bytes, text_model_bytes
from tests.contracts.llama_engines import loaded_engine

pytestmark = pytest.mark.native

KINDS: tuple[ProjectorKind, ...] = ("mlp", "gemma3", "qwen2vl_merger")
IMAGE_TOKENS = {"mlp": 16, "gemma3": 4, "qwen2vl_merger": 12}


def noise(seed: int) -> bytes:
    """A PNG file of random pixels."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


ONE, TWO = noise(1), noise(2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vision")
    for kind in KINDS:
        (path / f"{kind}.gguf").write_bytes(text_model_bytes(kind))
        (path / f"{kind}-projector.gguf").write_bytes(projector_bytes(kind))
    return path


def make(folder: Path, kind: str, projector: Path | None = None, **options: object) -> LlamaCppEngine:
    path = projector or folder / f"{kind}-projector.gguf"
    files = (folder / f"{kind}.gguf", LocalFile(role="projector", path=str(path)))
    return loaded_engine(*files, options={"num_ctx": 256, "num_parallel": 3, **options})


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> ProjectorKind:
    found: ProjectorKind = request.param
    return found


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The keys of the images that any encoder has been given, in order."""
    keys: list[int] = []
    encode = Projector.encode

    def counted(self: Projector, pixels: npt.NDArray[np.uint8], key: int) -> Any:
        keys.append(key)
        return encode(self, pixels, key)

    monkeypatch.setattr(Projector, "encode", counted)
    return keys


@pytest.fixture
def engine(folder: Path, kind: str) -> Iterator[LlamaCppEngine]:
    made = make(folder, kind)
    yield made
    made.close()


def ask(*parts: str | bytes, num_predict: int = 8) -> CompletionRequest:
    prompt = tuple(TextPart(text=part) if isinstance(part, str) else MediaPart(data=part) for part in parts)
    sampling = SamplingParams(temperature=0.0, num_predict=num_predict, repeat_penalty=1.0)
    return CompletionRequest(prompt=prompt, sampling=sampling, logprobs=3)


class Answer:
    """What one request got: a piece and its log probabilities per token."""

    def __init__(self) -> None:
        self.tokens: list[tuple[bytes, Any]] = []
        self.prefilled = Prefilled(prompt_tokens=0, cached_tokens=0)
        self.finish = ""
        self.steps: list[int] = []


class Running:
    """Requests that an engine works on, step by step."""

    def __init__(self, engine: LlamaCppEngine) -> None:
        self.engine = engine
        self.steps = 0
        self._answers: dict[int, tuple[Answer, int]] = {}

    def add(self, request: CompletionRequest) -> Answer:
        answer, number = Answer(), len(self._answers)
        self._answers[number] = answer, request.sampling.num_predict or 0
        if self.engine.needs_preparing(request):
            self.engine.add_prepared(number, self.engine.prepare(request), None)
        else:
            self.engine.add_request(number, request, None)
        return answer

    def step(self) -> None:
        self.steps += 1
        for number, output in self.engine.step():
            answer, most = self._answers[number]
            if isinstance(output, Prefilled):
                answer.prefilled = output
            elif isinstance(output, EngineFinished):
                answer.finish = output.reason
            elif isinstance(output, Token):
                answer.tokens.append((output.piece, output.logprob))
                answer.steps.append(self.steps)
                if len(answer.tokens) == most:
                    self.engine.abort_request(number)
            else:
                raise AssertionError(output)

    def finish(self) -> None:
        while self.engine.has_unfinished_requests():
            self.step()


def answered(engine: LlamaCppEngine, *requests: CompletionRequest) -> list[Answer]:
    running = Running(engine)
    answers = [running.add(request) for request in requests]
    running.finish()
    return answers


def reference(folder: Path, kind: str, *parts: str | bytes) -> npt.NDArray[np.float32]:
    """The logits after a prompt, as mtmd's own helper computes them."""
    params = C.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.flash_attn_type = 256, 256, 256, 0
    model = C.llama_model_load_from_file(str(folder / f"{kind}.gguf").encode(), C.llama_model_default_params())
    context = C.llama_init_from_model(model, params)
    images = M.mtmd_init_from_file(
        str(folder / f"{kind}-projector.gguf").encode(), model, M.mtmd_context_params_default()
    )
    bitmaps = []
    rows = []
    for part in parts:
        if isinstance(part, str):
            text = M.mtmd_input_text(part.encode(), len(part), False, False)
            rows.append(M.mtmd_input_part(ctypes.pointer(text), None))
        else:
            data = np.ascontiguousarray(np.asarray(Image.open(io.BytesIO(part)).convert("RGB")))
            pixels = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
            bitmaps.append(M.mtmd_bitmap_init(data.shape[1], data.shape[0], pixels))
            rows.append(M.mtmd_input_part(None, bitmaps[-1]))
    pointers = (ctypes.POINTER(M.mtmd_input_part) * len(rows))(*(ctypes.pointer(row) for row in rows))
    chunks = M.mtmd_input_chunks_init()
    past = C.llama_pos(0)
    assert M.mtmd_tokenize_from_parts(images, chunks, pointers, len(rows), True) == 0
    assert M.mtmd_helper_eval_chunks(images, context, chunks, 0, 0, 256, True, ctypes.byref(past)) == 0
    size = C.llama_vocab_n_tokens(C.llama_model_get_vocab(model))
    logits = np.ctypeslib.as_array(C.llama_get_logits_ith(context, -1), (size,)).copy()
    M.mtmd_input_chunks_free(chunks)
    for bitmap in bitmaps:
        M.mtmd_bitmap_free(bitmap)
    M.mtmd_free(images)
    C.llama_free(context)
    C.llama_model_free(model)
    return logits


def first_logprobs(answer: Answer) -> list[float]:
    return [entry.logprob for entry in answer.tokens[0][1].top]


@pytest.mark.parametrize(
    "parts",
    [("Look: ", ONE, " what?"), (ONE, "x"), ("a", ONE, TWO, "b c"), ("a", TWO, "b"), (TWO, "x", ONE, " and then")],
)
def test_images_are_computed_as_by_llama_cpp(
    folder: Path, kind: str, engine: LlamaCppEngine, parts: tuple[str | bytes, ...]
) -> None:
    """Wherever images stand, the first token has the probabilities that llama.cpp's own helper gives it."""
    [answer] = answered(engine, ask(*parts, num_predict=1))
    logits = reference(folder, kind, *parts).astype(np.float64)
    expected = np.sort(logits - np.log(np.sum(np.exp(logits - logits.max()))) - logits.max())[::-1]
    assert first_logprobs(answer) == pytest.approx(expected[:3].tolist(), abs=2e-3)


def test_texts_are_exact(folder: Path, kind: str) -> None:
    """The same request gives the same numbers, bit by bit: alone, cached, split into many pieces, and in company."""
    request = ask("Look at this: ", ONE, " and at this: ", TWO, " what?")
    wide = make(folder, kind)
    assert "exact" in wide.info.features
    [alone] = answered(wide, request)
    assert alone.prefilled.cached_tokens == 0
    [again] = answered(wide, request)
    assert again.prefilled.cached_tokens > 2 * IMAGE_TOKENS[kind]
    assert again.tokens == alone.tokens
    wide.close()
    narrow = make(folder, kind, max_prefill_tokens=5)
    running = Running(narrow)
    other = running.add(ask("Some text", num_predict=60))
    running.step()
    behind = [running.add(ask("Look at this: ", TWO, "x")), running.add(request)]
    running.finish()
    assert behind[1].tokens == alone.tokens
    for parts in (("Look at this: ", ONE, "?"), ("Look at this: ", ONE, " and at this: ", ONE), ("L", ONE, "x")):
        answered(narrow, ask(*parts))
        [later] = answered(narrow, request)
        assert later.tokens == alone.tokens
    assert len(other.tokens) == 60
    narrow.close()


def test_other_images_give_other_answers(engine: LlamaCppEngine) -> None:
    """Nothing of another image is reused, but everything before it is."""
    front = "The same long text in front of both images: "
    one, two = (answered(engine, ask(front, image, " what?"))[0] for image in (ONE, TWO))
    assert first_logprobs(one) != first_logprobs(two)
    assert len(front) <= two.prefilled.cached_tokens < two.prefilled.prompt_tokens - len(" what?")
    [blind] = answered(engine, ask(front, " what?"))
    assert first_logprobs(blind) not in (first_logprobs(one), first_logprobs(two))
    assert len(answered(engine, ask(front, ONE))[0].tokens) == 8  # a prompt may end with an image


def test_a_repeated_image_is_neither_encoded_nor_computed(
    kind: str, engine: LlamaCppEngine, encoded: list[int]
) -> None:
    """A second question about the same image begins after it; the encoder runs once for each image."""
    [first] = answered(engine, ask("Look: ", ONE, "What is it?"))
    [second] = answered(engine, ask("Look: ", ONE, "Where is it?"))
    assert second.prefilled.cached_tokens >= second.prefilled.prompt_tokens - len("Where is it?")
    answered(engine, ask(ONE, TWO, "?"))
    assert len(encoded) == 2
    assert first.prefilled.prompt_ids == ()


def test_token_ids_are_those_of_the_text(kind: str, engine: LlamaCppEngine) -> None:
    """Images count as tokens of the prompt, but have no ids."""
    [answer] = answered(engine, msgspec.structs.replace(ask("ab", ONE, "c"), return_token_ids=True))
    told = answer.prefilled
    assert told.prompt_tokens - len(told.prompt_ids) == IMAGE_TOKENS[kind]
    assert min(told.prompt_ids) >= 0


def test_answers_go_on_while_an_image_is_computed(folder: Path, kind: str) -> None:
    """Another answer gets a token in every step, also in those that compute pieces of an image within the budget."""
    engine = make(folder, kind, max_prefill_tokens=4)
    running = Running(engine)
    text = running.add(ask("Some text", num_predict=40))
    running.step()
    before = running.steps
    image = running.add(ask("a", ONE, "b", num_predict=2))
    running.finish()
    assert text.steps == list(range(text.steps[0], text.steps[0] + 40))
    pieces = 1 if kind == "gemma3" else IMAGE_TOKENS[kind] // 4
    assert image.steps[0] >= before + pieces
    engine.close()


def test_an_aborted_image_leaves_nothing_behind(folder: Path, kind: str) -> None:
    """A request that is aborted in the middle of an image is gone, and its stream serves others."""
    engine = make(folder, kind, max_prefill_tokens=4)
    request = ask("abcdefghijklmnop", ONE, "b")
    [expected] = answered(engine, request)
    engine.close()
    engine = make(folder, kind, max_prefill_tokens=4, num_parallel=2)
    for steps in range(1, 12):
        running = Running(engine)
        running.add(ask("Some text", num_predict=steps + 1))
        running.step()
        running.add(ask("abcdefghijklmnop", TWO if steps % 2 else ONE, "b"))
        for _ in range(steps):
            running.step()
        engine.abort_request(1)
        running.finish()
        [again] = answered(engine, request)
        assert again.tokens == expected.tokens
    engine.close()


def test_a_full_context_ends_the_answer(folder: Path, kind: str) -> None:
    """Half an image would be another image, so that a context with images does not shift; what does not fit is told."""
    engine = make(folder, kind, num_ctx=128)
    [answer] = answered(engine, ask("a", ONE, "b", num_predict=200))
    assert answer.finish == "length"
    assert len(answer.tokens) + answer.prefilled.prompt_tokens == 129
    with pytest.raises(PromptTooLong, match=r"the prompt of \d+ tokens is longer than the context of 128"):
        engine.prepare(ask(ONE, "x" * 120))
    engine.close()


def test_images_without_room_are_not_encoded(folder: Path, encoded: list[int]) -> None:
    """A request with very many images is refused once they fill the context, also if it asks for a smaller one."""
    engine = make(folder, "mlp", num_ctx=128)
    images = [noise(seed) for seed in range(20)]
    with pytest.raises(PromptTooLong, match="longer than the context of 128"):
        engine.prepare(ask(*images))
    assert len(encoded) == 8
    small = msgspec.structs.replace(ask(*images), context=ContextPolicy(num_ctx=20))
    with pytest.raises(PromptTooLong, match="longer than the context of 20"):
        engine.prepare(small)
    assert len(encoded) == 8
    engine.close()


def test_an_image_that_must_be_computed_at_once(folder: Path) -> None:
    """Images whose cells all see each other must fit into one computation, even if that exceeds the budget."""
    big = folder / "big-projector.gguf"
    big.write_bytes(projector_bytes("gemma3", **{"vision.projector.scale_factor": 1}))
    engine = make(folder, "gemma3", big, max_prefill_tokens=4)
    [answer] = answered(engine, ask("a", ONE, "b"))
    assert answer.prefilled.prompt_tokens > IMAGE_TOKENS["gemma3"] * 4
    engine.close()


# ── Preparation ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_answer_waits_for_the_encoder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an image is encoded, another request gets its whole answer; the first one can be aborted meanwhile."""
    engine = make(folder, "mlp")
    encoding, release = threading.Event(), threading.Event()
    encode = Projector.encode

    def slow(self: Projector, pixels: npt.NDArray[np.uint8], key: int) -> Any:
        encoding.set()
        assert release.wait(600)
        return encode(self, pixels, key)

    monkeypatch.setattr(Projector, "encode", slow)
    inbox: SimpleQueue[Command] = SimpleQueue()
    got: list[tuple[int, str]] = []

    def take(outcomes: list[Outcome]) -> None:
        for number, item in outcomes:
            assert isinstance(item, Started | Delta | Finished), item
            if isinstance(item, Finished):
                got.append((number, item.reason))
                if number == 2:
                    assert encoding.wait(600)
                    inbox.put(Abort(1))
                    release.set()
                    inbox.put(Add(3, ask(ONE, "c")))
                else:
                    inbox.put(Close())

    inbox.put(Add(1, ask("a", ONE, "b")))
    inbox.put(Add(2, ask("Some text", num_predict=20)))
    Stepper(StepLoop(engine), inbox, take).run()
    assert got == [(2, "length"), (3, "length")]


def test_bad_images_fail_alone(folder: Path) -> None:
    """What cannot be decoded after all is the request's error, and others go on."""
    engine = make(folder, "mlp")
    corrupt = bytearray(noise(3))
    corrupt[60:90] = bytes(30)
    for data, text in ((bytes(corrupt), "cannot be decoded"), (ONE[:99], "truncated"), (b"GIF", "not an image")):
        with pytest.raises(InvalidRequest, match=text):
            engine.prepare(ask("a", data))
    assert answered(engine, ask("a", png_bytes(), "b"))[0].tokens
    engine.close()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"projector_type": "teleport"}, "unknown projector type: teleport"),
        ({"vision.image_mean": [0.5]}, "image_mean"),
        ({"has_vision_encoder": False}, "projector"),
    ],
)
def test_a_projector_that_llama_cpp_does_not_support(folder: Path, more: dict[str, Any], reason: str) -> None:
    """The model answers texts; the reason is told with the model, and to whoever sends images all the same."""
    path = folder / "odd-projector.gguf"
    path.write_bytes(projector_bytes("mlp", **more))
    engine = make(folder, "mlp", path)
    assert "images" not in engine.info.features
    assert reason in engine.info.details["images"]
    assert answered(engine, ask("a"))[0].tokens
    with pytest.raises(Unsupported, match=r"no projector that llama\.cpp supports"):
        engine.prepare(ask("a", ONE))
    engine.close()


def test_a_projector_of_another_model(folder: Path) -> None:
    """The widths do not match: told as the reason, not found out by a crash."""
    path = folder / "wide-projector.gguf"
    path.write_bytes(projector_bytes("mlp", width=32))
    engine = make(folder, "mlp", path)
    assert "mismatch between text model (n_embd = 64) and mmproj (n_embd = 32)" in engine.info.details["images"]
    engine.close()


def test_the_projector_counts_as_memory(folder: Path) -> None:
    """A model with a projector is reported with more memory than the same model without one."""
    seeing = make(folder, "mlp")
    blind = load(
        LoadRequest(
            model="test",
            files=(LocalFile(role="weights", path=str(folder / "mlp.gguf")),),
            load_options={"num_ctx": 256, "num_parallel": 3, "num_thread": 1},
        ),
        lambda share: None,
    )
    size = (folder / "mlp-projector.gguf").stat().st_size
    assert seeing.info.memory_bytes["cpu"] - blind.info.memory_bytes["cpu"] > size
    blind.close()
    seeing.close()

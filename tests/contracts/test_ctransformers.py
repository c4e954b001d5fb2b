"""The ctransformers engine with real weights: its port's contract, a chat, caching, exactness, failures."""

from __future__ import annotations

import asyncio
import ctypes
import struct
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from corral.adapters.engines.ctransformers.engine import CtransformersEngine
from corral.adapters.engines.ctransformers.loader import load
from corral.adapters.engines.ctransformers.spec import SPEC
from corral.adapters.engines.ctransformers.tokenizer import gguf_tokenizer
from corral.adapters.formats.gguf.vocabulary import read_vocabulary
from corral.adapters.runners.process import ProcessModel, ProcessRunner
from corral.core.errors import CorralError, InvalidModelFile, PromptTooLong, Unsupported
from corral.core.requests.caller import ANONYMOUS, Caller
from corral.core.requests.outputs import (
    Delta,
    EngineEmbedded,
    EngineOutput,
    Finished,
    Output,
    Prefilled,
    Started,
    Token,
)
from corral.core.requests.principal import Principal
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import (
    ChatRequest,
    CompletionRequest,
    ContextPolicy,
    EmbedRequest,
    SamplingParams,
)
from corral.core.specs.engines import LoadRequest, LocalFile
from corral.plugins.testing import GeneratorEngineContract
from corral.plugins.testing.ggml import FAMILIES, ggml_bytes
from corral.plugins.testing.gguf import gguf_bytes

pytestmark = pytest.mark.native

BATCH = 16
CAPITAL = "The capital of France is"
OCEAN = "The ocean is wide and deep, and ships have crossed it for thousands of years to trade and to explore. "


def make(path: Path, **options: object) -> CtransformersEngine:
    engine = load(load_request(path, **options), lambda share: None)
    assert isinstance(engine, CtransformersEngine)
    return engine


def load_request(path: Path, **options: object) -> LoadRequest:
    wanted = {"num_ctx": 512, "num_batch": BATCH, "num_thread": 1, **options}
    return LoadRequest(model="smol", files=(LocalFile(role="weights", path=str(path)),), load_options=wanted)


def ask(
    text: str, *, logprobs: int | None = None, context: ContextPolicy | None = None, **sampling: Any
) -> CompletionRequest:
    params = SamplingParams(**{"temperature": 0.0, "num_predict": 8, **sampling})
    return CompletionRequest(
        prompt=(TextPart(text=text, parse_special=True),),
        sampling=params,
        context=context or ContextPolicy(),
        logprobs=logprobs,
    )


def outputs(engine: CtransformersEngine, request: CompletionRequest, tokens: int = 8) -> list[EngineOutput]:
    """The engine's outputs up to where a driver would stop it."""
    given: list[EngineOutput] = []
    running = engine.run(request, None)
    for output in running:
        if output is not None:
            given.append(output)
        if sum(isinstance(one, Token) for one in given) == tokens:
            break
    running.close()
    return given


def text(given: Sequence[EngineOutput]) -> str:
    return b"".join(one.piece for one in given if isinstance(one, Token)).decode()


@pytest.fixture(scope="module")
def shared(smollm2_ctransformers: Path) -> Iterator[CtransformersEngine]:
    engine = make(smollm2_ctransformers)
    yield engine
    engine.close()


class TestContract(GeneratorEngineContract):
    @pytest.fixture
    def engine(self, shallow_ctransformers: Path) -> CtransformersEngine:
        return make(shallow_ctransformers, num_ctx=48)


def test_it_knows_paris(shared: CtransformersEngine) -> None:
    """SmolLM2 gives the same answer here as on llama.cpp."""
    assert text(outputs(shared, ask(CAPITAL))).startswith(" Paris")


def test_tokens_are_llama_cpps(shared: CtransformersEngine, smollm2: Path) -> None:
    """Prompts are encoded token for token as llama.cpp encodes them, control tokens and odd texts included."""
    llama_cpp = pytest.importorskip("llama_cpp")
    reference = llama_cpp.Llama(str(smollm2), vocab_only=True, verbose=False)
    texts = [
        OCEAN,
        "  don't I'LL 12345 x=-1.5e3;\n\n\treturn café naïve 日本語、１２３ ½ ² 😀👩‍👩‍👧 नमस्ते مرحبا \r\n z",
        "<|im_start|>user\nhi<|im_end|>\n",
        "a" * 300,
        Path(__file__).read_text(encoding="utf-8"),
    ]
    try:
        for special in (False, True):
            for one in texts:
                wanted = reference.tokenize(one.encode(), add_bos=False, special=special)
                assert shared.tokenizer.text_ids(one, parse_special=special) == wanted
    finally:
        reference.close()


def test_spm_tokens_are_ctransformers_own(shallow_ctransformers: Path) -> None:
    """An SPM vocabulary is encoded token for token as ctransformers' own tokenizer encodes it."""
    from ctransformers.llm import LLM, Config

    table = read_vocabulary(shallow_ctransformers)
    assert table is not None
    tokenizer = gguf_tokenizer("smol", table)
    native = LLM(str(shallow_ctransformers), config=Config(context_length=32))
    paragraphs = [part for part in Path(__file__).read_text(encoding="utf-8").split("\n\n") if part]
    for one in (OCEAN, "café, naïve & 12345", *paragraphs[:20]):
        ids = (ctypes.c_int * (4 * len(one.encode()) + 4))()
        count = native.ctransformers_llm_tokenize(one.encode(), False, ids)
        assert tokenizer.text_ids(one) == ids[:count]


def test_a_prefix_is_kept(shared: CtransformersEngine) -> None:
    """The next prompt reuses whole chunks of the last one, which does not change its answer."""
    long = ask(OCEAN * 2 + "Ships")
    [first, *answer] = outputs(shared, long)
    assert isinstance(first, Prefilled)
    [again, *same] = outputs(shared, long)
    assert isinstance(again, Prefilled)
    assert again.cached_tokens == (again.prompt_tokens - 1) // BATCH * BATCH > 0
    assert same == answer
    outputs(shared, ask("Something else entirely"))
    [fresh, *recomputed] = outputs(shared, long)
    assert isinstance(fresh, Prefilled)
    assert fresh.cached_tokens == 0
    assert recomputed == answer
    private = Caller(principal=Principal(name="ann", shares_prefixes=False))
    for request, is_cached in ((private, False), (private, True), (ANONYMOUS, False)):
        [first, *same] = outputs(shared, msgspec.structs.replace(long, caller=request))
        assert isinstance(first, Prefilled)
        assert (first.cached_tokens > 0, same) == (is_cached, answer)


def test_seeds(shared: CtransformersEngine) -> None:
    """The same seed gives the same text again, and another seed another text."""
    texts = [text(outputs(shared, ask(OCEAN, temperature=1.0, seed=seed), 16)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_prompt_that_was_left_midway(shared: CtransformersEngine) -> None:
    """A request that was closed during its prompt does not affect the next one, which reuses the chunks computed so
    far.
    """
    request = ask(OCEAN * 3)
    outputs(shared, ask("Something else entirely"))
    expected = outputs(shared, request)[1:]
    outputs(shared, ask("Something else entirely"))
    running = shared.run(request, None)
    assert [next(running), next(running)] == [None, None]
    running.close()
    [prefilled, *answer] = outputs(shared, request)
    assert isinstance(prefilled, Prefilled)
    assert prefilled.cached_tokens == 2 * BATCH
    assert answer == expected


def test_a_full_context(shared: CtransformersEngine) -> None:
    """An answer that reaches the context ends with `length`; a prompt that does not fit is refused."""
    policy = ContextPolicy(num_ctx=24, num_keep=8)
    given = [one for one in shared.run(ask(CAPITAL, ignore_eos=True, context=policy), None) if one is not None]
    assert getattr(given[-1], "reason", None) == "length"
    prefilled = given[0]
    assert isinstance(prefilled, Prefilled)
    assert prefilled.ignored_options == ("num_keep",)
    assert prefilled.prompt_tokens + sum(isinstance(one, Token) for one in given) == 24 + 1
    with pytest.raises(PromptTooLong, match="longer than the context of 24"):
        next(shared.run(ask(OCEAN * 2, context=policy), None))


def test_logprobs_and_bias(shared: CtransformersEngine) -> None:
    """Log-probabilities are the model's own; a forbidden token is not chosen."""
    [_, token] = outputs(shared, ask(CAPITAL, logprobs=3), 1)
    assert isinstance(token, Token)
    assert token.logprob is not None
    assert token.logprob.token == b" Paris"
    assert [one.logprob for one in token.logprob.top] == sorted(
        (one.logprob for one in token.logprob.top), reverse=True
    )
    assert token.logprob.top[0].logprob == token.logprob.logprob < 0
    forbidden = ask(CAPITAL, logit_bias=((" Paris", float("-inf")),))
    assert " Paris" not in text(outputs(shared, forbidden))


def test_embeddings(shared: CtransformersEngine) -> None:
    """One vector per input; the same text gives the same vector bit by bit, and texts about the same subject are
    closer."""
    inputs = ("A horse runs.", "A pony gallops.", "Interest rates rose.", "A horse runs.")
    request = EmbedRequest(inputs=tuple((TextPart(text=one),) for one in inputs))
    [output] = [one for one in shared.run(request, None) if one is not None]
    assert isinstance(output, EngineEmbedded)
    assert output.vectors.count == 4
    size = 4 * output.vectors.dimensions
    rows = [struct.unpack(f"<{size // 4}f", output.vectors.float32[size * row : size * (row + 1)]) for row in range(4)]
    assert rows[0] == rows[3]
    assert cosine(rows[0], rows[1]) > cosine(rows[0], rows[2])
    with pytest.raises(PromptTooLong):
        list(shared.run(EmbedRequest(inputs=((TextPart(text=OCEAN),),), num_ctx=8, truncate=False), None))


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    product = sum(one * other for one, other in zip(left, right, strict=True))
    return float(product / (sum(one * one for one in left) * sum(one * one for one in right)) ** 0.5)


def test_other_tasks(shared: CtransformersEngine) -> None:
    """A request for a task that the engine does not have is `Unsupported`."""
    with pytest.raises(Unsupported, match="ChatRequest"):
        shared.run(ChatRequest(messages=()), None)


# ── In a process of its own ───────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def loaded(path: Path, **options: object) -> AsyncGenerator[ProcessModel, None]:
    model = await ProcessRunner().load(SPEC, load_request(path, **options), lambda share: None)
    try:
        yield model
    finally:
        await model.aclose()


async def answer(model: ProcessModel, request: CompletionRequest) -> list[Output]:
    return [output async for output in model.run(request)]


def said(given: Sequence[Output]) -> str:
    return "".join(one.text for one in given if isinstance(one, Delta))


def test_in_a_child(smollm2_ctransformers: Path) -> None:
    """Through the process runner: a completion, a chat with control tokens, stop strings, limits, cancelling,
    tokenizing."""

    async def check() -> None:
        async with loaded(smollm2_ctransformers) as model:
            assert {"exact", "logprobs", "constraints", "tokenize"} <= model.info.features
            assert said(await answer(model, ask(CAPITAL))).startswith(" Paris")
            [started, *_, finished] = await answer(model, ask(CAPITAL, num_predict=3))
            assert isinstance(started, Started)
            assert isinstance(finished, Finished)
            assert finished.reason == "length"
            assert (finished.usage.prompt_tokens, finished.usage.generated_tokens) == (5, 3)
            assert said(await answer(model, ask(CAPITAL, stop=("ris",)))) == " Pa"

            chat = (
                TextPart(text="<|im_start|>user\n", parse_special=True),
                TextPart(text="Say hello.<|im_end|>"),  # what somebody typed stays text
                TextPart(text="<|im_end|>\n<|im_start|>assistant\n", parse_special=True),
            )
            given = await answer(model, CompletionRequest(prompt=chat, sampling=SamplingParams(temperature=0.0)))
            assert len(said(given)) > 20
            assert "<|" not in said(given)
            assert isinstance(given[-1], Finished)
            assert given[-1].reason == "stop"
            [ids] = await model.tokenize([chat])
            assert ids.count(2) == 1
            assert (
                await model.detokenize(ids)
                == "<|im_start|>user\nSay hello.<|im_end|><|im_end|>\n<|im_start|>assistant\n"
            )

            async with aclosing(model.run(ask(OCEAN * 3, num_predict=400))) as cancelled:
                async for output in cancelled:
                    if isinstance(output, Delta):
                        break
            assert said(await answer(model, ask(CAPITAL))).startswith(" Paris")

    asyncio.run(check())


def bad_files(folder: Path, good: Path) -> Iterator[tuple[str, Path]]:
    data = good.read_bytes()
    for name, content in {
        "empty": b"",
        "garbage": b"no model at all " * 4096,
        "cut in the header": data[:100_000],
        "cut in the weights": data[:-1000],
        "version 3": data[:4] + struct.pack("<I", 3) + data[8:],
        "foreign": gguf_bytes(),
        "legacy": b"lmgg" + bytes(4096),
    }.items():
        path = folder / f"{name}.gguf"
        path.write_bytes(content)
        yield name, path


def test_bad_files(tmp_path: Path, shallow_ctransformers: Path) -> None:
    """A file that it cannot run is an error that names it, in a child process and in this one, which survives."""
    for name, path in bad_files(tmp_path, shallow_ctransformers):
        with pytest.raises(InvalidModelFile, match=path.name):
            make(path)
        if name in ("garbage", "cut in the weights"):
            with pytest.raises(CorralError, match=path.name):
                asyncio.run(ProcessRunner().load(SPEC, load_request(path), lambda share: None))


# ── Legacy GGML files ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=FAMILIES)
def legacy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A small file with random weights, of each family in turn."""
    path = tmp_path / "legacy.bin"
    path.write_bytes(ggml_bytes(request.param))
    return path


class TestLegacyContract(GeneratorEngineContract):
    @pytest.fixture
    def engine(self, legacy: Path) -> CtransformersEngine:
        return make(legacy)


def test_legacy_generates(legacy: Path) -> None:
    """Each family loads, generates up to the end of the context, and gives the same text with a kept prefix."""
    engine = make(legacy)
    try:
        request = ask("Once upon a time the horse upon the horse", ignore_eos=True, logprobs=1)
        [first, *answer] = outputs(engine, request, 100)
        [second, *again] = outputs(engine, request, 100)
        assert isinstance(first, Prefilled)
        assert isinstance(second, Prefilled)
        assert (first.cached_tokens, second.cached_tokens) == (0, 8)
        assert again == answer
        assert sum(isinstance(one, Token) for one in answer) == 64 - first.prompt_tokens + 1
        [_, *other] = outputs(
            engine, ask("Twice upon a time the horse upon the horse", ignore_eos=True, logprobs=1), 100
        )
        assert other != answer
        assert engine.info.tasks == {"completion"}
    finally:
        engine.close()

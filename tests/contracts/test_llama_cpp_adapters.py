"""The llama.cpp engine with LoRA adapters: texts as exact as without, prefixes of one set of adapters only, growth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp")

from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.core.errors import InvalidModelFile
from corral.core.ports.engines import StepEngine
from corral.core.requests.outputs import EngineFailed, Prefilled, Token
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, SamplingParams
from corral.core.specs.engines import LocalFile
from tests.contracts.llama_engines import loaded_engine
from tests.tiny_llama import write_tiny_llama
from tests.tiny_lora import LAYER, random_factors, write_lora

TEXT = "a long beginning that two models have in common, and that each of them computes for itself. "
Numbers = list[tuple[int | None, float]]
Set = Sequence[tuple[str, float]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and the adapters ``a`` and ``b`` for it."""
    folder = tmp_path_factory.mktemp("tiny")
    base = write_tiny_llama(folder / "base.gguf", "F16", layers=2)
    for seed, name in enumerate("ab"):
        write_lora(folder / name, random_factors(base, (*LAYER, "output.weight"), seed=seed), kind="F16")
    return folder


@pytest.fixture
def open_engine(request: pytest.FixtureRequest, folder: Path) -> Callable[..., LlamaCppEngine]:
    """Loads an engine with these adapters, which is closed after the test."""

    def opened(adapters: Set = (), *, cache_folder: Path | None = None, **options: Any) -> LlamaCppEngine:
        files = [LocalFile(role="weights", path=str(folder / "base.gguf"), digest=f"sha256:{0:064}")]
        for name, scale in adapters:
            digest = f"sha256:{name * 64}"
            files.append(LocalFile(role="adapter", path=str(folder / name), digest=digest, scale=scale))
        engine = loaded_engine(*files, cache_folder=cache_folder, options={"num_ctx": 512, **options})
        request.addfinalizer(engine.close)
        return engine

    return opened


def answers(engine: StepEngine, *texts: str, limit: int = 6) -> list[tuple[int, Numbers]]:
    """How many tokens of each prompt were cached, and the ids and log-probabilities of its answer."""
    cached: dict[int, int] = {}
    numbers: dict[int, Numbers] = {number: [] for number in range(len(texts))}
    for number, text in enumerate(texts):
        sampling = SamplingParams(temperature=0.0, ignore_eos=True)
        engine.add_request(
            number, CompletionRequest(prompt=(TextPart(text=text),), sampling=sampling, logprobs=1), None
        )
    while engine.has_unfinished_requests():
        for number, output in engine.step():
            assert not isinstance(output, EngineFailed), output
            if isinstance(output, Prefilled):
                cached[number] = output.cached_tokens
            elif isinstance(output, Token) and output.logprob is not None and len(numbers[number]) < limit:
                numbers[number].append((output.token_id, output.logprob.logprob))
                if len(numbers[number]) >= limit:
                    engine.abort_request(number)
    return [(cached[number], numbers[number]) for number in numbers]


def test_texts_are_as_exact_as_without_adapters(open_engine: Callable[..., LlamaCppEngine]) -> None:
    """With two adapters, each answer is bit for bit the same alone and among others, which exactness promises."""
    engine = open_engine([("a", 0.5), ("b", -1.0)], num_parallel=4)
    assert engine.info.details["exact"].startswith("yes")
    texts = ["one", "two or three", TEXT, "a dog"]
    together = [numbers for _, numbers in answers(engine, *texts)]
    fresh = open_engine([("a", 0.5), ("b", -1.0)], num_parallel=4, prefix_memory=0)
    assert together == [answers(fresh, text)[0][1] for text in texts]
    assert together != [answers(open_engine(num_parallel=4), text)[0][1] for text in texts]


def test_what_an_engine_says_of_its_adapters(open_engine: Callable[..., LlamaCppEngine], folder: Path) -> None:
    """Which they are, with their scales, and the memory that they take."""
    plain, adapted = open_engine(), open_engine([("a", 0.5), ("b", -1.0)])
    assert "adapters" not in plain.info.details
    assert adapted.info.details["adapters"] == "sha256:aaaaaaaaaaaa x 0.5, sha256:bbbbbbbbbbbb x -1"
    added = sum((folder / name).stat().st_size for name in "ab")
    assert sum(adapted.info.memory_bytes.values()) - sum(plain.info.memory_bytes.values()) == added


def test_prefixes_belong_to_one_set(open_engine: Callable[..., LlamaCppEngine], tmp_path: Path) -> None:
    """A prefix on disk is found by the same adapters with the same scales, and by no others, whose texts are those
    that they have without any prefix."""
    sets: list[Set] = [(), [("a", 1.0)], [("a", 0.5)], [("b", 1.0)], [("a", 1.0), ("b", 1.0)]]
    prompt = TEXT + "and now?"
    seen = []
    for adapters in sets:
        alone = answers(open_engine(adapters), prompt)[0][1]
        first = open_engine(adapters, cache_folder=tmp_path)
        cached, numbers = answers(first, prompt)[0]
        assert (cached, numbers) == (0, alone)
        first.close()
        seen.append(alone)
    assert len({str(numbers) for numbers in seen}) == len(sets)
    for adapters, alone in zip(sets, seen, strict=True):
        again = open_engine(adapters, cache_folder=tmp_path)
        cached, numbers = answers(again, prompt)[0]
        assert (cached > 64, numbers) == (True, alone)


def test_adapters_stay_while_the_context_grows(open_engine: Callable[..., LlamaCppEngine]) -> None:
    """Answers that go on in a larger context are those of an engine that had all of its room at once."""
    texts = [TEXT * 3, "two", "three or four", "five"]
    growing, fixed = (open_engine([("a", 1.0)], num_parallel=count, num_ctx=512) for count in (None, 8))
    before = growing.info.details["streams"]
    found = [numbers for _, numbers in answers(growing, *texts, limit=40)]
    assert growing.info.details["streams"] != before
    assert found == [numbers for _, numbers in answers(fixed, *texts, limit=40)]


def test_what_llama_cpp_refuses(open_engine: Callable[..., LlamaCppEngine], folder: Path) -> None:
    """A file that is no adapter is an error that names it, also if nothing has looked at it before."""
    (folder / "c").write_bytes(b"nothing")
    with pytest.raises(InvalidModelFile, match="could not load the adapter sha256:cccccccccccc"):
        open_engine([("c", 1.0)])

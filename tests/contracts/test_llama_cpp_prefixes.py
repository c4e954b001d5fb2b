"""Prefixes beyond the streams of llama.cpp: kept in host memory, found again, and the same to the last bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.engine_kit.prefixes.prefix_folder import PrefixFolder
from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.core.ports.engines import StepEngine
from corral.core.requests.caller import Caller
from corral.core.requests.outputs import Prefilled, Token
from corral.core.requests.principal import EVERYONE, Principal
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, SamplingParams
from corral.core.specs.engines import LocalFile
from tests.contracts.llama_engines import loaded_engine

pytestmark = pytest.mark.native

SHIPS = "The ocean is wide and deep, and ships have crossed it for thousands of years to trade and to explore. "
Numbers = list[tuple[int | None, float]]


@pytest.fixture(scope="module")
def weights(shallow: Callable[[str], Path]) -> Path:
    return shallow("Q4_1")


@pytest.fixture
def open_engine(request: pytest.FixtureRequest) -> Callable[..., LlamaCppEngine]:
    """Loads an engine, which is closed after the test."""

    def opened(path: Path, *, cache_folder: Path | None = None, **options: object) -> LlamaCppEngine:
        digest = "sha256:" + path.name.encode().hex().zfill(64)
        weights = LocalFile(role="weights", path=str(path), digest=digest)
        engine = loaded_engine(
            weights, cache_folder=cache_folder, options={"num_ctx": 512, "num_parallel": 1, **options}
        )
        request.addfinalizer(engine.close)
        return engine

    return opened


def chat(number: int, times: int = 6) -> str:
    return f"Chat {number} of many. " + f"{number} " * number + SHIPS * times


def ask(text: str, principal: Principal = EVERYONE) -> CompletionRequest:
    sampling, caller = SamplingParams(temperature=0.0), Caller(principal=principal)
    return CompletionRequest(prompt=(TextPart(text=text),), sampling=sampling, logprobs=2, caller=caller)


def answer(
    engine: StepEngine, *texts: str, limit: int = 4, principal: Principal = EVERYONE
) -> list[tuple[int, Numbers]]:
    """How many tokens of each prompt were cached, and the ids and log-probabilities of its answer."""
    cached: dict[int, int] = {}
    numbers: dict[int, Numbers] = {number: [] for number in range(len(texts))}
    for number, text in enumerate(texts):
        engine.add_request(number, ask(text, principal), None)
    while engine.has_unfinished_requests():
        for number, output in engine.step():
            if isinstance(output, Prefilled):
                cached[number] = output.cached_tokens
            elif isinstance(output, Token) and output.logprob is not None and len(numbers[number]) < limit:
                numbers[number].append((output.token_id, output.logprob.logprob))
                if len(numbers[number]) >= limit:
                    engine.abort_request(number)
    return [(cached[number], numbers[number]) for number in numbers]


def lengths(engine: LlamaCppEngine, texts: Sequence[str]) -> list[int]:
    return [len(engine.tokenizer.encode([(TextPart(text=text),)])[0]) for text in texts]


@pytest.mark.parametrize("streams", [1, 3])
def test_chats_that_take_turns_are_all_found(
    weights: Path, open_engine: Callable[..., LlamaCppEngine], streams: int
) -> None:
    """More chats than streams, by turns: each finds its whole last prompt, and its answer is bit for bit that of an
    engine which has seen nothing else."""
    engine = open_engine(weights, num_parallel=streams)
    chats = [chat(number) for number in range(1, 8)]
    for text in chats:
        assert answer(engine, text)[0][0] < 32
    turns = [f"{text} And now question {number}?" for number, text in enumerate(chats)]
    found = [answer(engine, turn)[0] for turn in turns]
    counts = lengths(engine, chats)
    assert [cached for cached, _ in found] == pytest.approx(counts, abs=2)
    fresh = open_engine(weights, num_parallel=streams, prefix_memory=0)
    assert [numbers for _, numbers in found] == [answer(fresh, turn)[0][1] for turn in turns]


def test_private_prefixes(weights: Path, open_engine: Callable[..., LlamaCppEngine], tmp_path: Path) -> None:
    """What was computed for a principal that shares no prefixes is found for its own prompts alone: in streams, in host
    memory, on disk, and while it is being computed. The answers are those of anybody.
    """
    engine = open_engine(weights, cache_folder=tmp_path, num_parallel=2)
    ann, bob = (Principal(name=name, shares_prefixes=False) for name in ("ann", "bob"))
    length = lengths(engine, [chat(1)])[0]
    turn = f"{chat(1)} And now?"
    [(_, expected)] = answer(engine, chat(1))
    for principal in (ann, bob):
        assert answer(engine, chat(1), principal=principal) == [(0, expected)]
    for number in range(2, 6):  # all of these leave the streams
        answer(engine, chat(number))
    for principal in (ann, bob, EVERYONE):
        [(cached, _)] = answer(engine, turn, principal=principal)
        assert cached == pytest.approx(length, abs=2)
    for number, principal in enumerate((ann, EVERYONE)):
        engine.add_request(number, ask(chat(7), principal), None)
    told = [output for _ in range(200) for _, output in engine.step() if isinstance(output, Prefilled)]
    assert [output.cached_tokens < 32 for output in told] == [True, True]
    engine.close()
    again = open_engine(weights, cache_folder=tmp_path, num_parallel=2)
    for principal, found in ((Principal(name="eve", shares_prefixes=False), False), (ann, True)):
        [(cached, _)] = answer(again, turn, principal=principal)
        assert (cached > 32) == found


def test_without_host_memory_nothing_is_kept(weights: Path, open_engine: Callable[..., LlamaCppEngine]) -> None:
    """`prefix_memory` 0: what leaves the only stream is computed again."""
    engine = open_engine(weights, prefix_memory=0)
    for text in (chat(1), chat(2), chat(1)):
        cached, _ = answer(engine, text)[0]
        assert cached < 32


def test_the_least_recently_used_prefix_leaves_first(weights: Path, open_engine: Callable[..., LlamaCppEngine]) -> None:
    """Host memory for two prompts: of three, the one that was used last longest ago is gone."""
    per_token = 3 * 2 * 3 * 64 * 2  # layers, keys and values, heads, width, f16
    engine = open_engine(weights, prefix_memory=330 * per_token)
    assert all(120 < length < 150 for length in lengths(engine, [chat(number) for number in range(1, 5)]))
    for number in (1, 2, 1, 3, 4):
        answer(engine, chat(number))
    assert answer(engine, chat(1))[0][0] > 100
    assert answer(engine, chat(2))[0][0] < 32


def test_running_answers_lose_no_step_to_others_prefixes(
    weights: Path, open_engine: Callable[..., LlamaCppEngine]
) -> None:
    """While an answer is generated, the copies of one step count against the prompt tokens of the next ones, and every
    step still yields a token."""
    engine = open_engine(weights, num_parallel=2, max_prefill_tokens=8)
    for number in range(1, 5):
        answer(engine, chat(number))
    engine.add_request(100, ask("Once upon a time"), None)
    while not any(isinstance(output, Token) for _, output in engine.step()):
        pass
    for number in range(1, 5):
        engine.add_request(number, ask(chat(number)), None)
    begun: set[int] = set()
    while begun != {1, 2, 3, 4}:
        outputs: Sequence[tuple[int, Any]] = engine.step()
        assert any(number == 100 and isinstance(output, Token) for number, output in outputs)
        for number, output in outputs:
            if number != 100 and isinstance(output, Token):
                begun.add(number)
                engine.abort_request(number)


@pytest.mark.parametrize("kind", ["Q4_1", "F16"])
def test_prefixes_outlive_the_process(
    kind: str, shallow: Callable[[str], Path], open_engine: Callable[..., LlamaCppEngine], tmp_path: Path
) -> None:
    """What an engine held when it was closed is found by the next one, with another number of streams, too; its answers
    are bit for bit those of one that has seen nothing."""
    engine = open_engine(shallow(kind), num_parallel=2, cache_folder=tmp_path / "prefixes")
    chats = [chat(number) for number in range(1, 5)]
    for text in chats:
        answer(engine, text)
    engine.close()
    again = open_engine(shallow(kind), num_parallel=3, cache_folder=tmp_path / "prefixes")
    turns = [f"{text} And now question {number}?" for number, text in enumerate(chats)]
    found = answer(again, *turns)
    assert [cached for cached, _ in found] == pytest.approx(lengths(again, chats), abs=2)
    fresh = open_engine(shallow(kind), num_parallel=3, prefix_memory=0)
    assert [numbers for _, numbers in found] == [one[0][1] for one in (answer(fresh, turn) for turn in turns)]


def test_other_options_do_not_share_files(
    weights: Path, open_engine: Callable[..., LlamaCppEngine], tmp_path: Path
) -> None:
    """A cache of other numbers (`kv_cache_type`, `exact`) is not what was computed here; `num_ctx` and threads are."""
    folder = tmp_path / "prefixes"
    engine = open_engine(weights, cache_folder=folder)
    answer(engine, chat(1))
    engine.close()
    for options, expected in (
        ({"kv_cache_type": "f32"}, False),
        ({"exact": False}, False),
        ({"prefix_disk": 0}, False),
        ({"num_ctx": 1024, "num_thread": 2}, True),
    ):
        other = open_engine(weights, cache_folder=folder, **options)
        assert (answer(other, chat(1))[0][0] > 100) == expected


def test_others_go_on_while_a_prefix_is_read(
    weights: Path, open_engine: Callable[..., LlamaCppEngine], tmp_path: Path
) -> None:
    """An answer that is being generated loses no step to a request that waits for the disk; a damaged file is computed
    anew, with the same result."""
    folder = tmp_path / "prefixes"
    engine = open_engine(weights, cache_folder=folder)
    [(_, expected)] = answer(engine, chat(1))
    engine.close()
    [path] = folder.glob("*.prefix")
    engine = open_engine(weights, num_parallel=2, cache_folder=folder)
    engine.add_request(100, ask("Once upon a time"), None)
    while not any(isinstance(output, Token) for _, output in engine.step()):
        pass
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    engine.add_request(1, ask(chat(1)), None)
    numbers: Numbers = []
    cached = None
    while len(numbers) < len(expected):
        outputs: Sequence[tuple[int, Any]] = engine.step()
        assert any(number == 100 and isinstance(output, Token) for number, output in outputs)
        for number, output in outputs:
            if number == 1 and isinstance(output, Prefilled):
                cached = output.cached_tokens
            elif number == 1 and isinstance(output, Token) and output.logprob is not None:
                numbers.append((output.token_id, output.logprob.logprob))
    assert (cached, numbers) == (0, expected)
    assert not path.exists()


def test_clearing_the_disk_clears_the_streams(
    weights: Path, open_engine: Callable[..., LlamaCppEngine], tmp_path: Path
) -> None:
    """After `corral cache clear`, a loaded model has nothing of earlier prompts, and writes nothing of them."""
    folder = tmp_path / "prefixes"
    engine = open_engine(weights, num_parallel=2, cache_folder=folder)
    answer(engine, chat(1))
    folder.mkdir()
    PrefixFolder(folder, 0).clear()
    deadline = time.monotonic() + 30
    while engine.info.prefixes[0].entries:
        engine.idle()
        assert time.monotonic() < deadline
    assert answer(engine, chat(1))[0][0] == 0
    PrefixFolder(folder, 0).clear()
    engine.close()
    assert list(folder.glob("*.prefix")) == []

"""Guesses in llama.cpp: an answer has the same tokens with them as without, in fewer steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from corral.adapters.engines.llama_cpp import guess_opening
from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.adapters.engines.llama_cpp.guess_policy import GuessCandidate, GuessPolicy
from corral.adapters.engines.llama_cpp.guessing import Offer
from corral.core.errors import InvalidModelFile, InvalidOption
from corral.core.ports.tokens import TokenMask
from corral.core.requests.outputs import Delta, EngineFailed, Finished, Output, Token
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, SamplingParams
from corral.core.specs.engines import LocalFile
from corral.core.stepping.answer_driver import SequenceDriver
from tests.contracts.llama_engines import loaded_engine

pytestmark = pytest.mark.native

SHIPS = "The ocean is wide and deep, and ships have crossed it for thousands of years to trade and to explore. "
_VOCABULARY = 49_152
GREEDY = SamplingParams(temperature=0.0)
Opened = Callable[..., LlamaCppEngine]


@pytest.fixture(scope="module")
def weights(shallow: Callable[[str], Path]) -> Path:
    return shallow("Q8_0")


def opened(path: Path, draft: Path | None = None, **options: object) -> LlamaCppEngine:
    drafts = [] if draft is None else [LocalFile(role="draft", path=str(draft))]
    return loaded_engine(path, *drafts, options={"num_ctx": 512, "num_parallel": 1, "exact": False, **options})


@pytest.fixture
def open_engine(request: pytest.FixtureRequest) -> Opened:
    """Loads an engine, which is closed after the test."""

    def opened_for_test(path: Path, draft: Path | None = None, **options: object) -> LlamaCppEngine:
        engine = opened(path, draft, **options)
        request.addfinalizer(engine.close)
        return engine

    return opened_for_test


@pytest.fixture(scope="module")
def plain_engine(weights: Path) -> Iterator[LlamaCppEngine]:
    """It has no guesses."""
    with contextlib.closing(opened(weights, guess="off", num_parallel=4)) as engine:
        yield engine


@pytest.fixture(scope="module")
def oracle_engine(weights: Path) -> Iterator[LlamaCppEngine]:
    """The oracle guesses for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guess_opening, "PromptLookup", Oracle)
        engine = opened(weights, num_parallel=4)
    with contextlib.closing(engine):
        yield engine


class Oracle:
    """Knows the answers. Every fifth token is guessed wrongly."""

    answers: Sequence[Sequence[int]] = ()

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens[-1:])

    def add(self, token: int) -> None:
        self._tokens.append(token)

    def _next(self, most: int) -> list[int]:
        done = len(self._tokens)
        answer = next((one for one in self.answers if list(one[:done]) == self._tokens), ())
        return [token + 1 if at % 5 == 4 else token for at, token in enumerate(answer[done : done + most], start=done)]

    def offer(self, most: int) -> Offer:
        return Offer(len(self._next(most)), "long")

    def guess(self, count: int) -> list[int]:
        return self._next(count)

    def close(self) -> None:
        pass


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is offered is guessed, by the oracle."""

    def lengths(self: GuessPolicy, candidates: Sequence[GuessCandidate], most_rows: int) -> list[int]:
        assert len(candidates) + sum(candidate.available for candidate in candidates) <= most_rows
        return [candidate.available for candidate in candidates]

    monkeypatch.setattr(GuessPolicy, "lengths", lengths)
    monkeypatch.setattr(guess_opening, "PromptLookup", Oracle)


def answers(
    engine: LlamaCppEngine,
    *texts: str,
    sampling: SamplingParams = GREEDY,
    limit: int = 32,
    masks: Sequence[TokenMask] = (),
) -> tuple[list[list[int]], int]:
    """The ids of each answer, and how many steps there were after the first token."""
    ids: dict[int, list[int]] = {number: [] for number in range(len(texts))}
    for number, text in enumerate(texts):
        asked = CompletionRequest(prompt=(TextPart(text=text),), sampling=sampling, logprobs=1)
        engine.add_request(number, asked, masks[number] if masks else None)
    steps = 0
    while engine.has_unfinished_requests():
        steps += any(ids.values())
        for number, output in engine.step():
            assert not isinstance(output, EngineFailed), output
            if isinstance(output, Token) and output.token_id is not None and len(ids[number]) < limit:
                ids[number].append(output.token_id)
                if len(ids[number]) == limit:
                    engine.abort_request(number)
    return list(ids.values()), steps


class EvenAfterOdd:
    """Allows tokens of the other parity than the last."""

    def __init__(self, size: int) -> None:
        self._rows = (bytes([0b01010101]) * (size // 8), bytes([0b10101010]) * (size // 8))
        self._last = 0

    def allowed(self) -> bytes:
        return self._rows[1 - self._last % 2]

    def accept(self, token_id: int) -> None:
        assert token_id % 2 == 1 - self._last % 2
        self._last = token_id


SAMPLINGS = {
    "greedy": GREEDY,
    "penalties": SamplingParams(temperature=0.0, repeat_penalty=1.3, presence_penalty=0.4),
    "dry": SamplingParams(temperature=0.0, dry_multiplier=0.8, dry_sequence_breakers=("\n",)),
    "seed": SamplingParams(temperature=0.9, seed=7, top_p=0.95),
    "mirostat": SamplingParams(temperature=0.9, seed=7, mirostat=2),
}


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.usefixtures("always")
def test_the_text_is_that_without_guesses(
    plain_engine: LlamaCppEngine, oracle_engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """However tokens are chosen, they are those chosen without guesses, in far fewer steps."""
    plain, plain_steps = answers(plain_engine, SHIPS, sampling=SAMPLINGS[name])
    monkeypatch.setattr(Oracle, "answers", plain)
    found, steps = answers(oracle_engine, SHIPS, sampling=SAMPLINGS[name])
    assert found == plain
    assert plain_steps == 31
    assert steps < 14


@pytest.mark.usefixtures("always")
def test_masks_hold(
    plain_engine: LlamaCppEngine, oracle_engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask of each token depends on the one before, also when that was guessed."""
    plain, _ = answers(plain_engine, SHIPS, masks=[EvenAfterOdd(_VOCABULARY)])
    monkeypatch.setattr(Oracle, "answers", plain)
    found, steps = answers(oracle_engine, SHIPS, masks=[EvenAfterOdd(_VOCABULARY)])
    assert found == plain
    assert steps < 14


@pytest.mark.usefixtures("always")
def test_several_requests_at_once(
    plain_engine: LlamaCppEngine, oracle_engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests beside each other, some of which have guesses, get the texts they get without any."""
    texts = [SHIPS, SHIPS[40:] * 2, "One two three", "And so on"]
    plain, _ = answers(plain_engine, *texts)
    monkeypatch.setattr(Oracle, "answers", plain[:2])
    found, _ = answers(oracle_engine, *texts)
    assert found == plain


@pytest.mark.usefixtures("always")
def test_a_stop_string_among_guesses(
    plain_engine: LlamaCppEngine, oracle_engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several tokens of one step, with a stop string in the middle: the answer ends before it, as without guesses."""
    plain, _ = answers(plain_engine, SHIPS)
    monkeypatch.setattr(Oracle, "answers", plain)
    pieces = [oracle_engine.tokenizer.piece(token) for token in plain[0]]
    stop = pieces[7].decode("utf-8", "replace")
    first = next(at for at, piece in enumerate(pieces) if stop in piece.decode("utf-8", "replace"))
    asked = CompletionRequest(
        prompt=(TextPart(text=SHIPS),), sampling=SamplingParams(temperature=0.0, stop=(stop,)), return_token_ids=True
    )
    driver = SequenceDriver(asked, context_length=512)
    oracle_engine.add_request(1, asked, None)
    said: list[Output] = []
    over = False
    while not over:
        for _, output in oracle_engine.step():
            outputs, ended = driver.feed(output)
            said += [] if over else outputs
            over = over or ended
    oracle_engine.abort_request(1)
    finished = said[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "stop"
    assert finished.usage.generated_tokens == first + 1
    text = b"".join(pieces[: first + 1]).decode("utf-8", "replace")
    assert "".join(one.text for one in said if isinstance(one, Delta)) == text[: text.index(stop)]


@pytest.mark.usefixtures("always")
def test_a_context_that_shifts(weights: Path, open_engine: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """No guess goes beyond the context: it is shifted at the same token as without, and the text goes on the same."""
    plain, _ = answers(open_engine(weights, guess="off", num_ctx=64), SHIPS, limit=90)
    monkeypatch.setattr(Oracle, "answers", plain)
    found, steps = answers(open_engine(weights, num_ctx=64), SHIPS, limit=90)
    assert found == plain
    assert steps < 45


@pytest.mark.usefixtures("always")
def test_what_was_wrong_leaves_nothing_behind(
    plain_engine: LlamaCppEngine, oracle_engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an answer, its stream goes on from the prompt as after one without guesses."""
    monkeypatch.setattr(Oracle, "answers", answers(plain_engine, SHIPS, limit=13)[0])
    answers(oracle_engine, SHIPS, limit=13)
    found, expected = (answers(engine, SHIPS + " Then", limit=1)[0] for engine in (oracle_engine, plain_engine))
    assert found == expected


def test_prompts_are_looked_up(weights: Path, open_engine: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the answer repeats of its prompt, or of itself, is guessed: with a mask that allows one token alone, nearly
    every step yields several."""
    monkeypatch.setattr(GuessPolicy, "lengths", lambda self, candidates, most_rows: [candidates[0].available])

    class Always:
        def allowed(self) -> bytes:
            return bytes([0] * 10 + [1]) + bytes(_VOCABULARY // 8 - 11)

        def accept(self, token_id: int) -> None:
            assert token_id == 80

    found, steps = answers(open_engine(weights), "x", masks=[Always()], limit=40)
    assert found == [[80] * 40]
    assert steps <= 9


def test_exact_texts_have_guesses_only_if_they_stay_exact(open_engine: Opened, shallow: Callable[[str], Path]) -> None:
    """Rows of F16 weights that are computed together are not what each is alone: while texts are exact, nothing is
    guessed, and the details say so."""
    engine = open_engine(shallow("F16"), exact=True, num_parallel=2)
    assert engine.info.details["exact"].startswith("yes")
    assert engine.info.details["guesses"].startswith("no: several rows")
    assert open_engine(shallow("F16"), guess="off").info.details["guesses"] == "no: switched off"


# ── Draft models ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["greedy", "seed"])
def test_a_draft_model(
    weights: Path, open_engine: Opened, shallow: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What a draft model guesses is kept only where the model chooses it: with the same weights in another type, often.
    The text is that without; so is that of a second turn, which the draft model has half computed."""
    monkeypatch.setattr(GuessPolicy, "lengths", lambda self, candidates, rows: [min(3, candidates[0].available)])
    plain = open_engine(weights, guess="off")
    drafted = open_engine(weights, shallow("Q4_1"), guess="draft")
    assert drafted.info.details["guesses"].startswith("from its draft model")
    assert drafted.info.memory_bytes["cpu"] > plain.info.memory_bytes["cpu"] + shallow("Q4_1").stat().st_size // 2
    for text in (SHIPS * 4, SHIPS * 4 + "And then"):
        expected, plain_steps = answers(plain, text, sampling=SAMPLINGS[name], limit=24)
        found, steps = answers(drafted, text, sampling=SAMPLINGS[name], limit=24)
        assert found == expected
        assert steps < plain_steps


def test_a_draft_model_beside_the_prompt(weights: Path, open_engine: Opened, shallow: Callable[[str], Path]) -> None:
    """By itself, an engine takes guesses from both; more requests than the draft model has streams go on without it."""
    texts = [SHIPS * count for count in (1, 2, 3, 4, 5, 6)]
    engine = open_engine(weights, shallow("Q4_1"), num_parallel=6)
    assert "and its draft model" in engine.info.details["guesses"]
    plain, _ = answers(open_engine(weights, guess="off", num_parallel=6), *texts, limit=12)
    assert answers(engine, *texts, limit=12)[0] == plain


def test_a_draft_model_of_another_family(weights: Path, open_engine: Opened, shallow_gemma3: Path) -> None:
    """Its tokens are others: an error names both models. If it is not asked for by name, it is left out, and said."""
    with pytest.raises(InvalidModelFile, match=r"draft model .*another vocabulary than") as caught:
        open_engine(weights, shallow_gemma3, guess="draft")
    assert "gemma3" in str(caught.value)
    assert "llama" in str(caught.value)
    told = open_engine(weights, shallow_gemma3).info.details["guesses"]
    assert told.startswith("from prompt and answer")
    assert "not from its draft model" in told


def test_a_draft_model_that_is_not_there(weights: Path, open_engine: Opened) -> None:
    """Asking for guesses of a draft model without one is an error with the remedy."""
    with pytest.raises(InvalidOption, match="has none") as caught:
        open_engine(weights, guess="draft")
    assert "DRAFT" in (caught.value.remedy or "")

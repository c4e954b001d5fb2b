"""Guessed tokens of the llama.cpp engine: where they come from, how many there are, and which are kept."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from corral.adapters.engine_kit.token_choosing import ModelTokens, TokenChooser
from corral.adapters.engines.llama_cpp.guess_costs import StepCosts, StepKind
from corral.adapters.engines.llama_cpp.guess_draft import DraftGuesser, DraftModel
from corral.adapters.engines.llama_cpp.guess_policy import Acceptance, GuessCandidate, GuessPolicy
from corral.adapters.engines.llama_cpp.guess_prompt import PromptLookup
from corral.adapters.engines.llama_cpp.guessing import GuessedRequest, Guessing, Offer, choose_tokens
from corral.core.errors import EngineError
from corral.core.requests.requests import CompletionRequest

# ── From prompt and answer ────────────────────────────────────────────────────────────────────────────────────────────


def test_what_followed_before_is_guessed() -> None:
    """Three tokens that have stood before are followed by what followed them then; two say nothing."""
    lookup = PromptLookup([1, 2, 3, 4, 5, 6, 7, 9, 1, 2])
    assert lookup.offer(4) == Offer(0, "short")
    lookup.add(3)
    assert lookup.offer(4) == Offer(4, "short")
    assert lookup.guess(4) == [4, 5, 6, 7]


def test_the_longest_match_wins() -> None:
    """Of several places, that with the most tokens in common before it; of equals, the latest."""
    lookup = PromptLookup([8, 1, 2, 3, 50, 7, 1, 2, 3, 60, 6, 1, 2, 3, 70, 5, 8, 1, 2, 3])
    assert lookup.offer(1).length == 1
    assert lookup.guess(1) == [50]
    latest = PromptLookup([1, 2, 3, 50, 7, 1, 2, 3, 60, 6, 1, 2, 3])
    latest.offer(1)
    assert latest.guess(1) == [60]


def test_a_text_that_repeats_itself_goes_on_to() -> None:
    """Beyond the end of the text, the guess goes on with what it has guessed."""
    lookup = PromptLookup([4, 5, 4, 5, 4, 5])
    assert lookup.offer(7).length == 7
    assert lookup.guess(7) == [4, 5, 4, 5, 4, 5, 4]


def test_cells_of_images_are_not_guessed() -> None:
    """A guess ends before what is no token."""
    lookup = PromptLookup([1, 2, 3, 4, -9, -9, 5, 1, 2, 3])
    assert lookup.offer(5).length == 1
    assert lookup.guess(1) == [4]


def test_a_long_prompt_is_indexed_in_pieces() -> None:
    """The work of one step is bounded: a long prompt is found after some steps."""
    tokens = list(range(10_000))
    lookup = PromptLookup([*tokens, 9_000, 9_001, 9_002])
    offers = [lookup.offer(2).length for _ in range(6)]
    assert offers[0] == 0
    assert offers[-1] == 2
    assert lookup.guess(2) == [9_003, 9_004]


@pytest.mark.parametrize("seed", range(10))
def test_it_offers_what_a_scan_finds(seed: int) -> None:
    """In random texts of few tokens, three tokens that have stood before are always found, and what is guessed has
    followed them somewhere."""
    dice = random.Random(seed)
    tokens = dice.choices(range(6), k=30)
    lookup = PromptLookup(tokens)
    for _ in range(100):
        tokens.append(dice.randrange(6))
        lookup.add(tokens[-1])
        last = tokens[-3:]
        places = [at for at in range(3, len(tokens)) if tokens[at - 3 : at] == last]
        offer = lookup.offer(1)
        assert offer.length == bool(places)
        if places:
            assert lookup.guess(1)[0] in {tokens[at] for at in places}


# ── From a draft model ────────────────────────────────────────────────────────────────────────────────────────────────


class FakeDraft(DraftModel):
    """A draft model of one stream, for which the likeliest token is the last one plus one. It notes its work."""

    def __init__(self, num_ctx: int = 1000) -> None:
        self.held = [[]]
        self.context = SimpleNamespace(num_ctx=num_ctx, logits=self._logits)  # type: ignore[assignment]
        self._free = [0]
        self.computed: list[int] = []

    def _logits(self, row: int) -> Any:
        return np.eye(1000, dtype=np.float32)[self.held[0][-1] + 1]

    def compute(self, stream: int, tokens: Sequence[int], *, last: bool) -> bool:
        self.held[stream] += tokens
        self.computed.append(len(tokens))
        return True

    def keep(self, stream: int, count: int) -> None:
        del self.held[stream][count:]


def test_a_draft_model_continues_the_text() -> None:
    """It computes what it has not seen yet, and one token for each further guess; what was wrong is forgotten."""
    draft = FakeDraft()
    guesser = DraftGuesser(draft, [1, 2, 3], limit=900)
    assert guesser.offer(3) == Offer(3, "draft")
    assert guesser.guess(3) == [4, 5, 6]
    for token in (4, 5, 50):
        guesser.add(token)
    assert guesser.guess(2) == [51, 52]
    assert draft.held == [[1, 2, 3, 4, 5, 50, 51]]
    assert draft.computed == [3, 1, 1, 1, 1]
    guesser.add(899)
    assert guesser.guess(2) == []  # the model has no token 900


def test_a_draft_model_computes_a_long_prompt_in_pieces() -> None:
    """Meanwhile it offers nothing; the next request with the same beginning finds what is there."""
    draft = FakeDraft()
    guesser = DraftGuesser(draft, range(200), limit=900)
    assert [guesser.offer(3).length for _ in range(3)] == [0, 0, 3]
    assert guesser.guess(1) == [200]
    assert DraftGuesser(draft, range(200), limit=900).offer(3).length == 0  # its only stream is taken
    guesser.close()
    guesser.close()
    draft.computed.clear()
    again = DraftGuesser(draft, [*range(150), 7, 8], limit=900)
    assert again.offer(3).length == 3
    assert again.guess(1) == [9]
    assert draft.computed == [2]


def test_a_draft_model_that_is_not_asked_gives_up() -> None:
    """When its guesses do not win, it does not compute the rest of the answer, and its stream is free."""
    draft = FakeDraft()
    guesser = DraftGuesser(draft, [1, 2, 3], limit=900)
    guesser.offer(3)
    guesser.guess(1)
    for token in range(100):
        guesser.add(token)
        guesser.offer(3)
    assert sum(draft.computed) == 3
    assert guesser.offer(3).length == 0
    assert DraftGuesser(draft, [1], limit=900).offer(3).length == 3


def test_a_draft_model_with_a_smaller_context() -> None:
    """Beyond its context, it offers nothing."""
    guesser = DraftGuesser(FakeDraft(num_ctx=10), range(8), limit=900)
    assert guesser.offer(7).length == 2
    guesser.add(1)
    guesser.add(2)
    assert guesser.offer(7).length == 0


# ── How many ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Machine:
    """Steps of one sequence that take `row` more for each guess; time is in steps without guesses."""

    def __init__(self, row: float) -> None:
        self.row = row
        self.costs = StepCosts()
        self.policy = GuessPolicy(self.costs)
        self.model = Acceptance()
        self.now = 0.0
        self.tokens = 0

    def answer(self, tokens: int, share: float, seed: int, evidence: Any = "short") -> float:
        """Generate so many tokens, of which `share` are guessed rightly; return how many steps' time it takes."""
        dice, acceptance = random.Random(seed), Acceptance(self.model)
        began, self.tokens = self.now, 0
        while self.tokens < tokens:
            candidate = GuessCandidate(7, acceptance.share(evidence))
            (length,) = self.policy.lengths([candidate], 512)
            accepted = 0
            while accepted < length and dice.random() < share:
                accepted += 1
            if length:
                acceptance.record(evidence, accepted, rejected=accepted < length)
            took = 1.0 + self.row * length
            self.policy.record(StepKind(1, int(length > 0), length), took, 1 + accepted)
            self.now += took
            self.tokens += 1 + accepted
        return self.now - began


def test_guesses_that_are_right_are_used() -> None:
    """When nearly every guess is right, most of what they can win is won, soon."""
    machine = Machine(row=0.2)
    assert machine.answer(200, share=0.97, seed=1, evidence="very long") < 200 / 2.4


@pytest.mark.parametrize("evidence", ["short", "medium", "long", "very long"])
@pytest.mark.parametrize("row", [0.05, 0.3, 1.0])
def test_guesses_that_are_wrong_cost_little(evidence: str, row: float) -> None:
    """When every guess is wrong, at most a fiftieth of the time of a thousand tokens is lost, whatever rows cost."""
    machine = Machine(row)
    assert machine.answer(1000, share=0.0, seed=1, evidence=evidence) < 1020


def test_rows_as_expensive_as_tokens() -> None:
    """If a row costs as much as a step, guesses cannot win, and are given up although they are right."""
    machine = Machine(row=1.0)
    assert machine.answer(1000, share=0.9, seed=1, evidence="very long") < 1020


def test_each_request_has_its_own_acceptance() -> None:
    """After an ordinary text, one that repeats its prompt is still won, and the other way round little is lost."""
    machine = Machine(row=0.2)
    machine.answer(500, share=0.0, seed=1)
    assert machine.answer(300, share=0.97, seed=2, evidence="very long") < 300 / 2
    assert machine.answer(500, share=0.05, seed=3) < 515


def test_no_guesses_without_a_measurement_to_compare_with() -> None:
    """The first step with a number of sequences has none, and neither has one step of 64."""
    costs = StepCosts()
    policy = GuessPolicy(costs)
    sure = [GuessCandidate(7, 0.99)]
    assert policy.lengths(sure, 512) == [0]
    policy.record(StepKind(1), 1.0, 1)
    given = []
    for _ in range(130):
        (length,) = policy.lengths(sure, 512)
        given.append(length)
        policy.record(StepKind(1, int(length > 0), length), 1.0, 1 + length)
    assert given.count(0) == 2
    assert given.count(7) > 120
    assert policy.lengths(sure * 2, 512) == [0, 0]


def test_sequences_guess_together_within_the_rows_there_are() -> None:
    """Sequences have the same number of guesses, or none, and never more rows in all than a batch takes."""
    costs = StepCosts()
    policy = GuessPolicy(costs)
    for count in (1, 3, 9):
        policy.record(StepKind(count), 1.0, count)
    assert policy.lengths([GuessCandidate(7, 0.99)] * 3, 512) == [7, 7, 7]
    assert policy.lengths([GuessCandidate(7, 0.99)] * 3, 12) == [3, 3, 3]
    assert policy.lengths([GuessCandidate(7, 0.99), GuessCandidate(0, 0.9), GuessCandidate(7, 0.99)], 512) == [7, 0, 7]
    assert policy.lengths([GuessCandidate(7, 0.99)] * 9, 512) == [0] * 9


def test_costs_are_forgotten() -> None:
    """What was expensive long ago is tried again."""
    costs = StepCosts()
    for _ in range(5):
        costs.record(StepKind(1), 1.0)
        costs.record(StepKind(1, 1, 3), 9.0)
    assert costs.ratio(StepKind(1, 1, 3)) == 9.0
    for _ in range(1000):
        costs.record(StepKind(1), 1.0)
    assert costs.ratio(StepKind(1, 1, 3)) < 3.0


# ── Which are kept ────────────────────────────────────────────────────────────────────────────────────────────────────


class DiceSampler:
    """Draws from the softmax of the logits, with a seed; the token 7 is an error."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def choose(self, logits: Any) -> int:
        weights = np.exp(logits)
        token = self.dice.choices(range(len(weights)), weights)[0]
        if token == 7:
            raise EngineError("seven")
        return token


class Model:
    """Logits that depend on the last token alone: a chain over eight tokens, of which 6 ends an answer."""

    def __init__(self, seed: int) -> None:
        rows = np.random.default_rng(seed).normal(size=(8, 8)).astype(np.float32)
        rows[:, 6:] -= 3.0
        self.rows = rows

    def sequence(self, seed: int) -> Any:
        meaning = ModelTokens(
            size=8, ends=[6], text=lambda one: b"%d" % one, spelling=lambda one: b"", control_id=lambda text: None
        )
        chooser = TokenChooser(CompletionRequest(prompt=()), DiceSampler(seed), meaning)
        stream = SimpleNamespace(tokens=[])
        return SimpleNamespace(chooser=chooser, guess=[], guessed=None, pending=0, owned=stream)


def texts(seed: int, guess: Any) -> tuple[list[int | None], str, list[int]]:
    """The ids of an answer of at most 40 tokens, how it ended, and what its stream has."""
    model = Model(1)
    sequence = model.sequence(seed)
    ids: list[int | None] = []
    while len(ids) < 40:
        sequence.guess = guess(ids)
        sequence.owned.tokens.append(sequence.pending)
        rows = [model.rows[token] for token in (sequence.pending, *sequence.guess)]
        chosen = choose_tokens(sequence, rows)
        ids += [token.token_id for token in chosen.tokens]
        if chosen.ended or chosen.error is not None:
            return ids, "ended" if chosen.ended else str(chosen.error), sequence.owned.tokens
    return ids[:40], "limit", sequence.owned.tokens[:40]


@pytest.mark.parametrize("seed", range(30))
def test_the_text_is_that_without_guesses(seed: int) -> None:
    """Whatever is guessed, right or wrong, every token is drawn as without: from the same logits, by the same dice.
    The stream has exactly what was chosen, also where an answer ends or fails among guesses."""
    plain = texts(seed, lambda ids: [])
    dice = random.Random(seed)

    def oracle(ids: list[int | None]) -> list[int]:
        return [one for one in plain[0][len(ids) : len(ids) + 5] if one is not None]

    def random_guess(ids: list[int | None]) -> list[int]:
        return dice.choices(range(8), k=dice.randrange(6))

    def half(ids: list[int | None]) -> list[int]:
        right = oracle(ids)
        return [*right[:2], (right[2] + 1) % 8, *right[3:]] if len(right) > 2 else right

    for guess in (oracle, random_guess, half):
        assert texts(seed, guess) == plain


class Counted:
    """A guesser that counts the tokens it hears of."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def add(self, token: int) -> None:
        self.heard.append(token)

    def offer(self, most: int) -> Offer:
        return Offer(0, "short")

    def guess(self, count: int) -> list[int]:
        return []

    def close(self) -> None:
        pass


def test_what_was_accepted_is_reported() -> None:
    """The guesser hears of every token, and the request knows how many guesses were right."""
    model = Model(1)
    for seed in range(20):
        sequence = model.sequence(seed)
        guesser = Counted()
        sequence.guessed = request = GuessedRequest(guesser, Acceptance(), left=10)
        ids = [one for one in texts(seed, lambda ids: [])[0] if one is not None]
        sequence.guess = [*ids[:2], 5 if ids[2:3] != [5] else 4]
        rows = [model.rows[token] for token in (0, *sequence.guess)]
        chosen = choose_tokens(sequence, rows)
        assert [token.token_id for token in chosen.tokens] == guesser.heard == ids[: len(guesser.heard)]
        assert request.left == 10 - len(guesser.heard)
        assert request.accepted == min(2, len(guesser.heard) - bool(chosen.ended))
        assert request.rejected == (len(guesser.heard) == 3 and not chosen.ended and chosen.error is None)


def test_how_many_guesses_were_right_is_told() -> None:
    """People see where guesses come from, and how many of them were right."""
    guessing = Guessing(lambda tokens: Counted(), source="from the stars")
    assert guessing.told == "from the stars, where they win"
    request = GuessedRequest(Counted(), Acceptance(), left=None)
    request.given, request.accepted, request.rejected = 3, 2, True
    sequence: Any = SimpleNamespace(guessed=request)
    for _ in range(2):
        guessing.learn([sequence], 0.1)
    assert guessing.told == "from the stars, where they win; 4 of 6 were right"

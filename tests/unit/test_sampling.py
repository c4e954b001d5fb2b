"""The shared sampler: each option by its effect, the mask, log-probabilities, seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from corral.adapters.engine_kit.sampling import LogitsSampler
from corral.adapters.engine_kit.sampling.dry import Dry
from corral.core.errors import EngineError, InvalidOption
from corral.core.requests.requests import SamplingParams

WORDS = ("<end>", " a", " b", " c", "\n", "d:", "x", "yz", "#", "!")
"""A vocabulary of ten tokens; id 0 ends."""

OFF: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 1}
"""No sampler except the random draw."""


def encode(text: str) -> list[int]:
    """Greedy longest match over `WORDS`."""
    ids = []
    while text:
        word = max((word for word in WORDS if text.startswith(word)), key=len)
        ids.append(WORDS.index(word))
        text = text[len(word) :]
    return ids


class Mask:
    """A mask that allows some ids and records which ones were chosen."""

    def __init__(self, *ids: int) -> None:
        self._bits = np.packbits([token in ids for token in range(len(WORDS))], bitorder="little").tobytes()
        self.accepted: list[int] = []

    def allowed(self) -> bytes | None:
        return self._bits

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)


def make(mask: Mask | None = None, num_ctx: int = 64, **params: Any) -> LogitsSampler:
    return LogitsSampler(
        SamplingParams(**params),
        vocabulary_size=len(WORDS),
        num_ctx=num_ctx,
        encode=encode,
        decode_piece=lambda token_id: WORDS[token_id].encode(),
        ends={0},
        mask=mask,
    )


def logits(**probabilities: float) -> npt.NDArray[np.float32]:
    """Logits of the tokens t0 to t9 with these probabilities; the others are forbidden."""
    found = np.full(len(WORDS), -np.inf, np.float32)
    for name, probability in probabilities.items():
        found[int(name[1:])] = math.log(probability)
    return found


def drawn(rows: npt.NDArray[np.float32], times: int = 400, remember: Sequence[int] = (), **params: Any) -> Counter[int]:
    """How often each token is chosen first, over many seeds."""
    counts: Counter[int] = Counter()
    for seed in range(times):
        sampler = make(**{**OFF, **params, "seed": seed})
        sampler.remember(remember)
        counts[sampler.choose(rows)] += 1
    return counts


OPEN = logits(t1=0.4, t2=0.3, t3=0.2, t6=0.09, t7=0.01)


# ── Choosing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_greedy() -> None:
    """Temperature 0 chooses the likeliest token, whatever else is set."""
    assert drawn(OPEN, 20, temperature=0.0, top_k=3, mirostat=2) == {1: 20}


def test_a_plain_draw_follows_the_probabilities() -> None:
    """Without samplers, tokens occur with the model's own probabilities."""
    counts = drawn(OPEN, 2000)
    for token, probability in ((1, 0.4), (2, 0.3), (3, 0.2), (6, 0.09)):
        assert counts[token] / 2000 == pytest.approx(probability, abs=0.04)


def test_temperature_sharpens_and_flattens() -> None:
    """Low temperatures favour the likeliest, high ones level the odds."""
    assert drawn(OPEN, temperature=0.3)[1] > drawn(OPEN)[1] > drawn(OPEN, temperature=3.0)[1]


def test_dynatemp() -> None:
    """Dynamic temperature is lower where the model is sure: a sure choice gets surer, an open one stays open."""
    sure = logits(t1=0.9, t2=0.05, t3=0.05)
    level = logits(t1=0.26, t2=0.25, t3=0.25, t6=0.24)
    options: dict[str, Any] = {"temperature": 1.0, "dynatemp_range": 0.9}
    assert drawn(sure, **options)[1] > drawn(sure)[1]
    assert drawn(level, **options)[1] < 0.35 * 400
    assert drawn(sure, dynatemp_exponent=4.0, **options)[1] == 400


def test_top_k() -> None:
    """Only the k likeliest are left."""
    assert set(drawn(OPEN, top_k=2)) == {1, 2}


def test_top_p() -> None:
    """Only the likeliest that together reach p are left."""
    assert set(drawn(OPEN, top_p=0.65)) == {1, 2}


def test_min_p() -> None:
    """Only those at least p times as likely as the likeliest are left."""
    assert set(drawn(OPEN, min_p=0.45)) == {1, 2, 3}


def test_typical_p() -> None:
    """The tokens whose surprise is nearest the entropy remain, without the likeliest if its surprise is too low."""
    rows = logits(t1=0.3, t2=0.1, t3=0.1, t4=0.1, t5=0.1, t6=0.1, t7=0.1, t8=0.1)
    assert 1 in drawn(rows)
    assert 1 not in drawn(rows, typical_p=0.45)


def test_top_n_sigma() -> None:
    """Tokens far below the best, in standard deviations, are left out."""
    assert set(drawn(OPEN, top_n_sigma=0.6)) == {1, 2, 3}


def test_xtc() -> None:
    """With the given probability, only the least likely of the tokens above the threshold stays."""
    assert set(drawn(OPEN, xtc_probability=1.0, xtc_threshold=0.15)) == {3, 6, 7}
    assert 1 in drawn(OPEN, xtc_probability=0.5, xtc_threshold=0.15)
    assert 1 in drawn(OPEN, xtc_probability=1.0, xtc_threshold=0.6)


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat(version: int) -> None:
    """A text keeps to the surprise that tau allows, and a tau above the model's own entropy changes nothing."""
    shares = 1 / np.arange(1, len(WORDS) + 1)
    rows = np.log(shares / shares.sum()).astype(np.float32)

    def surprise(**params: Any) -> float:
        sampler = make(**OFF, **params)
        return float(np.mean([-float(rows[sampler.choose(rows)]) / math.log(2) for _ in range(800)][100:]))

    low, middle, high = (surprise(mirostat=version, mirostat_tau=tau) for tau in (0.5, 1.5, 6.0))
    assert low < middle - 0.2 < high - 0.4
    assert high == pytest.approx(surprise(), abs=0.15)


def test_mirostat_settings() -> None:
    """A larger tau allows more surprise; without learning (eta 0) the allowance stays at twice tau."""
    assert set(drawn(OPEN, mirostat=2, mirostat_tau=0.7)) == {1}
    assert set(drawn(OPEN, mirostat=2, mirostat_tau=4.0)) >= {1, 2, 3, 6, 7}
    sampler = make(**OFF, mirostat=2, mirostat_tau=1.2, mirostat_eta=0.0)
    assert {sampler.choose(OPEN) for _ in range(300)} == {1, 2, 3}


# ── What was said before ──────────────────────────────────────────────────────────────────────────────────────────


def test_repeat_penalty() -> None:
    """A token that has occurred becomes less likely, with positive and negative logits alike."""
    for best, next_best in ((2.0, 1.5), (-1.5, -2.0)):
        rows = np.full(len(WORDS), -9, np.float32)
        rows[1], rows[2] = best, next_best
        sampler = make(temperature=0.0, repeat_penalty=2.0)
        sampler.remember([1])
        assert sampler.choose(rows) == 2
        assert make(temperature=0.0, repeat_penalty=2.0).choose(rows) == 1


def test_presence_and_frequency_penalties() -> None:
    """Presence counts once, frequency each time."""
    rows = np.full(len(WORDS), -9, np.float32)
    rows[1], rows[2], rows[3] = 3.0, 2.5, 2.0
    presence = make(temperature=0.0, presence_penalty=0.7)
    presence.remember([1, 1, 1])
    assert [presence.choose(rows) for _ in range(2)] == [2, 1]
    frequency = make(temperature=0.0, frequency_penalty=0.7)
    frequency.remember([1, 1, 1])
    assert [frequency.choose(rows) for _ in range(2)] == [2, 3]


def test_repeat_last_n() -> None:
    """Penalties consider that many tokens: none at 0, the whole context at -1."""
    rows = np.full(len(WORDS), -9, np.float32)
    rows[1], rows[2] = 2.0, 1.9
    history = [1, *[3] * 10]
    for last_n, expected in ((0, 1), (5, 1), (11, 2), (-1, 2)):
        sampler = make(temperature=0.0, repeat_penalty=2.0, repeat_last_n=last_n)
        sampler.remember(history)
        assert sampler.choose(rows) == expected


def test_what_is_chosen_is_remembered() -> None:
    """Penalties consider the answer as well as the prompt."""
    rows = np.full(len(WORDS), -9, np.float32)
    rows[1], rows[2] = 2.0, 1.9
    sampler = make(temperature=0.0, repeat_penalty=2.0)
    assert [sampler.choose(rows) for _ in range(2)] == [1, 2]


def dry_choice(history: Sequence[int], **params: Any) -> int:
    rows = np.full(len(WORDS), -9, np.float32)
    rows[6], rows[7] = 2.0, 0.5
    sampler = make(temperature=0.0, **{"dry_multiplier": 1.0, **params})
    sampler.remember(history)
    return sampler.choose(rows)


def test_dry() -> None:
    """A token that would continue a repeated passage is less likely; the longer the passage, the less likely."""
    said = [1, 2, 3, 6, 9, 1, 2, 3]
    assert dry_choice(said, dry_multiplier=0.0) == 6
    assert dry_choice(said) == 7
    assert dry_choice(said, dry_base=1.0) == 6
    assert dry_choice(said, dry_multiplier=0.5) == 6
    assert dry_choice([8, *said[:5], 8, *said[:3]], dry_multiplier=0.5) == 7


def test_dry_allowed_length() -> None:
    """Repetitions shorter than allowed cost nothing."""
    assert dry_choice([1, 2, 3, 6, 9, 1, 2, 3], dry_allowed_length=4) == 6
    assert dry_choice([1, 2, 3, 6, 9, 1, 2, 3], dry_allowed_length=3, dry_multiplier=2.0) == 7


def test_dry_penalty_last_n() -> None:
    """DRY considers that many tokens: none at 0, the whole context at -1."""
    said = [1, 2, 3, 6, 9, 1, 2, 3]
    assert dry_choice(said, dry_penalty_last_n=0) == 6
    assert dry_choice(said, dry_penalty_last_n=6) == 6
    assert dry_choice(said, dry_penalty_last_n=8) == 7


def test_sequence_breakers_are_tokenized_once() -> None:
    """However many tokens of the history begin a breaker, each of its endings is tokenized once."""
    asked: list[str] = []

    def counting(text: str) -> list[int]:
        asked.append(text)
        return [ord(letter) for letter in text]

    params = SamplingParams(dry_multiplier=1.0, dry_sequence_breakers=("a" * 40, "ab" * 20))
    dry = Dry(params, last_n=600, encode=counting, decode_piece=lambda token_id: b"x" * token_id + b"aaaa")
    dry.remember(range(500))
    dry.apply(np.zeros(512, np.float32))
    assert 0 < len(asked) == len(set(asked)) < 80


def test_dry_sequence_breakers() -> None:
    """A repetition does not extend across a breaker, whether the breaker is part of a token or several tokens."""
    said = [1, 5, 3, 6, 9, 1, 5, 3]
    assert dry_choice(said, dry_sequence_breakers=()) == 7
    assert dry_choice(said, dry_sequence_breakers=(":",)) == 6
    several = [1, 7, 6, 3, 6, 9, 1, 7, 6, 3]
    assert dry_choice(several, dry_sequence_breakers=("#",)) == 7
    assert dry_choice(several, dry_sequence_breakers=("zx",)) == 6


def test_dry_remembers_long_texts() -> None:
    """Texts many times longer than the window lose nothing of its last tokens."""
    sampler = make(temperature=0.0, dry_multiplier=1.0, num_ctx=16)
    rows = np.full(len(WORDS), -9, np.float32)
    rows[6], rows[7] = 2.0, 0.5
    for _ in range(30):
        sampler.remember([8, 9])
    sampler.remember([1, 2, 3, 6, 9, 1, 2, 3])
    assert sampler.choose(rows) == 7


# ── Biases, ends, masks ───────────────────────────────────────────────────────────────────────────────────────────


def test_logit_bias() -> None:
    """A bias applies to a token id or to every token of a text; minus infinity forbids, and biases add up."""
    assert make(temperature=0.0, logit_bias=((2, 5.0),)).choose(OPEN) == 2
    assert make(temperature=0.0, logit_bias=((" b", 2.0), (2, 3.0))).choose(OPEN) == 2
    assert make(temperature=0.0, logit_bias=((1, -math.inf),)).choose(OPEN) == 2
    assert make(**OFF, logit_bias=((3, math.inf),)).choose(OPEN) == 3


def test_logit_bias_outside_the_vocabulary() -> None:
    """A bias on a token that does not exist is refused."""
    with pytest.raises(InvalidOption, match="99"):
        make(logit_bias=((99, 1.0),))


def test_ignore_eos() -> None:
    """The tokens that end an answer are never chosen."""
    rows = logits(t0=0.9, t1=0.1)
    assert make(temperature=0.0).choose(rows) == 0
    assert make(temperature=0.0, ignore_eos=True).choose(rows) == 1


def test_mask() -> None:
    """Only tokens that the mask allows are chosen, greedily or at random, and the mask learns which one."""
    for params in ({"temperature": 0.0}, {"seed": 3}, {"seed": 3, "mirostat": 1}):
        mask = Mask(6, 7)
        sampler = make(mask, **params)
        chosen = [sampler.choose(OPEN) for _ in range(20)]
        assert set(chosen) <= {6, 7}
        assert mask.accepted == chosen


def test_the_mask_has_the_last_word() -> None:
    """If biases forbid everything the mask allows, as at the end of a grammar with ignore_eos, the mask wins."""
    rows = logits(t0=0.1, t1=0.9)
    assert make(Mask(0), temperature=0.0, ignore_eos=True).choose(rows) == 0


def test_no_token_at_all() -> None:
    """Logits that are not numbers, or are all forbidden, raise one of our errors instead of choosing a token."""
    for params in ({"temperature": 0.0}, {"seed": 1}, {"seed": 1, "mirostat": 2}):
        for value in (math.nan, -math.inf):
            with pytest.raises(EngineError, match="no token"):
                make(**params).choose(np.full(len(WORDS), value, np.float32))


def test_padding_is_never_chosen() -> None:
    """Logits beyond the vocabulary are the model's padding."""
    rows = np.append(OPEN, np.float32(99))
    assert make(temperature=0.0).choose(rows) == 1


@pytest.mark.parametrize(
    "params",
    [
        {"repeat_penalty": 0.0},
        {"repeat_penalty": -1e38},
        {"frequency_penalty": 1e38},
        {"temperature": 1e-320},
        {"temperature": 1e38},
        {"top_p": -1.0},
        {"min_p": 7.0},
        {"typical_p": -1.0},
        {"mirostat": 1, "mirostat_tau": 1e9},
        {"mirostat": 1, "mirostat_tau": -1e9},
        {"mirostat": 2, "mirostat_tau": -1e9},
        {"dynatemp_range": 5.0, "dynatemp_exponent": -3.0},
        {"dry_multiplier": 1e38, "dry_base": 1e9, "dry_allowed_length": -2},
        {"xtc_probability": 1.0, "xtc_threshold": -1.0},
        {"logit_bias": ((1, math.nan),)},
        {"seed": -5},
    ],
)
def test_absurd_numbers(params: dict[str, Any]) -> None:
    """No number from a caller makes the sampler fail or choose a forbidden token."""
    sampler = make(**{**OFF, **params})
    sampler.remember([1, 2, 3, 1, 2, 3, 1, 2])
    for _ in range(20):
        assert np.isfinite(OPEN[sampler.choose(OPEN)])


# ── Around the choice ─────────────────────────────────────────────────────────────────────────────────────────────


def test_seeds() -> None:
    """The same seed chooses the same tokens, whatever other samplers do in between; another seed, or none, differs."""

    def text(seed: int | None, *others: LogitsSampler) -> list[int]:
        sampler = make(seed=seed, temperature=1.0, xtc_probability=0.5)
        chosen = []
        for _ in range(40):
            chosen.append(sampler.choose(OPEN))
            for other in others:
                other.choose(OPEN)
        return chosen

    assert text(7) == text(7, make(seed=7), make())
    assert text(7) != text(8)
    assert text(None) != text(None)
    assert text(2**40) != text(2**40 + 2**35)


def test_logits_stay_as_they_were() -> None:
    """The engine's array is not written to."""
    rows = OPEN.copy()
    rows.setflags(write=False)
    sampler = make(Mask(1, 2), repeat_penalty=2.0, logit_bias=((1, 1.0),), top_n_sigma=1.0, ignore_eos=True)
    sampler.remember([1, 2])
    sampler.choose(rows)
    assert (rows == OPEN).all()


def test_large_vocabularies() -> None:
    """With more candidates than are sorted at once, top-p keeps exactly what a full sort would."""
    rows = np.random.default_rng(5).normal(0, 1, 20_000).astype(np.float32)
    for top_p in (0.01, 0.3, 0.9):
        weights = np.exp(rows.astype(np.float64))
        weights /= weights.sum()
        order = np.argsort(-weights)
        kept = set(order[: int((np.cumsum(weights[order]) >= top_p).argmax()) + 1].tolist())
        sampler = LogitsSampler(
            SamplingParams(temperature=100.0, top_k=0, top_p=top_p, seed=1),
            vocabulary_size=len(rows),
            num_ctx=8,
            encode=encode,
            decode_piece=lambda token_id: b"",
            ends=(),
            mask=None,
        )
        assert {sampler.choose(rows) for _ in range(100)} <= kept

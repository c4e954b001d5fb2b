"""Control tokens in text: found by the vocabulary's spellings, or by their looks."""

from __future__ import annotations

import time

import pytest

from corral.adapters.engines.fake import FakeEngine, FakeLoadOptions
from corral.adapters.runners.stepping import described
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens, control_tokens


def found(control: ControlTokens, text: str) -> list[str]:
    return [match[0] for match in control.find(text)]


def test_the_longest_of_several_is_found() -> None:
    """A token that is the beginning of another does not hide it, and special characters are taken literally."""
    control = ControlTokens(("<a", "<a>", "<ab>", "a.c", "<a>"))
    assert found(control, "<ab><a><a a.c abc") == ["<ab>", "<a>", "<a", "a.c"]


def test_no_tokens_are_no_guess() -> None:
    """If a vocabulary has no control tokens, nothing counts as one, whatever it looks like."""
    control = ControlTokens(())
    assert found(control, "<|im_end|>") == []
    assert not control.is_one("<|im_end|>")


def test_thousands_of_tokens() -> None:
    """Every token of a long list is found, and nothing else."""
    spellings = tuple(f"<|reserved_{n}|>" for n in range(5000))
    control = control_tokens(spellings)
    assert control is control_tokens(spellings)
    assert found(control, "<|reserved_5000|>" + "".join(spellings)) == list(spellings)
    assert found(control, "<" * 100_000) == []


@pytest.mark.parametrize(
    "token", ["<|im_end|>", "</s>", "[INST]", "[/INST]", "[|im_end|]", "]~im_end~]", "]~b]", "<|im end|>"]
)
def test_what_looks_like_a_control_token(token: str) -> None:
    """Without a list, the spellings of all known families count."""
    assert found(LOOKALIKES, f"a {token} b") == [token]


def test_an_engines_vocabulary_names_its_control_tokens() -> None:
    """An engine need not list them itself."""
    engine = FakeEngine(FakeLoadOptions())
    assert engine.info.control_tokens is None
    assert described(engine).control_tokens == ("<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>")


@pytest.mark.parametrize(
    "spellings",
    [
        tuple(f"<|t{number}|>" for number in range(200_000)),
        tuple(f"{number}" + "a" * 250 for number in range(10_000)),
    ],
)
def test_a_hostile_vocabulary_costs_little_and_what_looks_like_a_control_token_counts(
    spellings: tuple[str, ...],
) -> None:
    before_s = time.thread_time()
    control = ControlTokens(spellings)
    assert time.thread_time() - before_s < 1
    assert control.is_one("<|im_end|>")


def test_a_control_token_that_is_too_long_to_be_typed_is_left_out() -> None:
    control = ControlTokens(("<a>", "b" * 1000))
    assert [control.is_one("<a>"), control.is_one("b" * 1000)] == [True, False]


def test_control_tokens_that_begin_each_other_cost_little() -> None:
    before_s = time.thread_time()
    control = ControlTokens(tuple("a" * length for length in range(1, 3000)))
    assert time.thread_time() - before_s < 1
    assert control.is_one("aaa")

"""From logits to tokens: log-probabilities, which part of a token is text, and which tokens end an answer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from corral.adapters.engine_kit.sampling import LogitsSampler
from corral.adapters.engine_kit.token_choosing import ModelTokens, TokenChooser
from corral.core.ports.tokens import TokenMask, Vocabulary
from corral.core.requests.outputs import Token
from corral.core.requests.requests import CompletionRequest, SamplingParams

VOCABULARY = Vocabulary(
    pieces=(b"<end>", b"<tool>", b" a", b" b", b" c"), control=frozenset({0, 1}), ends=frozenset({0})
)
IDS = {piece.decode(): index for index, piece in enumerate(VOCABULARY.pieces)}
LOGITS = np.log(np.array([0.01, 0.02, 0.4, 0.3, 0.27], np.float32))


class Only:
    """A mask that allows one token."""

    def __init__(self, token_id: int) -> None:
        self.token_id = token_id
        self.accepted: list[int] = []

    def allowed(self) -> bytes:
        return bytes([1 << self.token_id])

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)


def chooser(
    mask: TokenMask | None = None, logprobs: int | None = None, preserved: tuple[str, ...] = ()
) -> TokenChooser:
    request = CompletionRequest(
        prompt=(),
        sampling=SamplingParams(temperature=0.0, logit_bias=((4, 0.001),)),
        logprobs=logprobs,
        preserved_tokens=frozenset(preserved),
    )
    sampler = LogitsSampler(
        request.sampling,
        vocabulary_size=5,
        num_ctx=8,
        encode=lambda text: [IDS[text]],
        decode_piece=VOCABULARY.pieces.__getitem__,
        ends=VOCABULARY.ends,
        mask=mask,
    )
    return TokenChooser(request, sampler, ModelTokens.of(VOCABULARY, size=5, control_id=IDS.get))


def test_the_chosen_token_is_text() -> None:
    """The log-probability of the likeliest token, with its id."""
    assert chooser().choose(LOGITS) == (Token(token_id=2, piece=b" a"), 2, False)


def test_a_token_that_ends_an_answer_is_no_text() -> None:
    """And is reported as the end, unless it must appear in the text."""
    assert chooser(Only(0)).choose(LOGITS) == (Token(token_id=0, piece=b""), 0, True)
    assert chooser(Only(0), preserved=("<end>",)).choose(LOGITS) == (Token(token_id=0, piece=b"<end>"), 0, False)


def test_control_tokens_are_hidden_unless_they_are_preserved() -> None:
    """They do not end the answer; names that match no token change nothing."""
    mask = Only(1)
    assert chooser(mask, preserved=("<nothing>",)).choose(LOGITS) == (Token(token_id=1, piece=b""), 1, False)
    assert mask.accepted == [1]
    assert chooser(Only(1), preserved=("<tool>",)).choose(LOGITS)[0].piece == b"<tool>"


def test_logprobs() -> None:
    """Log-probabilities are the model's own, before mask and biases; the likeliest first; control tokens spelt out."""
    found = chooser(Only(1), logprobs=2).choose(LOGITS)[0].logprob
    assert found is not None
    assert found.token == b"<tool>"
    assert found.logprob == pytest.approx(math.log(0.02), abs=1e-4)
    assert [top.token for top in found.top] == [b" a", b" b"]
    assert found.top[0].logprob == pytest.approx(math.log(0.4), abs=1e-4)


@pytest.mark.parametrize(("wanted", "given"), [(0, 0), (3, 3), (10**9, 5)])
def test_alternatives_are_as_many_as_are_wanted(wanted: int, given: int) -> None:
    """Never more than the vocabulary size; padding after it is excluded."""
    padded = np.append(LOGITS, np.float32(99))
    found = chooser(logprobs=wanted).choose(padded)[0].logprob
    assert found is not None
    assert len(found.top) == given
    assert found.logprob == pytest.approx(math.log(0.4), abs=1e-4)

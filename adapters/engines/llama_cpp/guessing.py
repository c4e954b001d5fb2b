"""Guesses: tokens that may follow are computed in the same step as the token that is due, and kept while they are what
is chosen. So a step yields several tokens, and each is chosen exactly as without guesses: from its own logits, in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from corral.adapters.engine_kit.sampling.candidates import Logits
from corral.adapters.engines.llama_cpp.guess_costs import StepCosts, StepKind
from corral.adapters.engines.llama_cpp.guess_policy import LENGTHS, Acceptance, Evidence, GuessCandidate, GuessPolicy
from corral.adapters.engines.llama_cpp.sequences import LlamaSequence
from corral.core.errors import CorralError
from corral.core.requests.outputs import Token

__all__ = ("Chosen", "GuessedRequest", "Guesser", "Guessing", "Offer", "choose_tokens")


class Offer(NamedTuple):
    """How many tokens can be guessed, and what the guess would rest on."""

    length: int
    evidence: Evidence


class Guesser(Protocol):
    """Guesses how the text of one request goes on. Created with the tokens there are, prompt and answer."""

    def add(self, token: int) -> None:
        """The next token of the answer."""
        ...

    def offer(self, most: int) -> Offer:
        """What `guess` would return if asked for `most` tokens. Quick."""
        ...

    def guess(self, count: int) -> list[int]:
        """Tokens that may follow, as many as asked for: at most what was offered."""
        ...

    def close(self) -> None:
        """The request has ended. May be called twice."""
        ...


class GuessedRequest:
    """What is known of the guesses for one request. `given` guesses were computed in this step, and `accepted` of them
    chosen; `rejected` says whether another token was chosen in place of the next.
    """

    __slots__ = ("acceptance", "accepted", "evidence", "given", "guesser", "left", "rejected")

    def __init__(self, guesser: Guesser, acceptance: Acceptance, left: int | None) -> None:
        self.guesser = guesser
        self.acceptance = acceptance
        self.left = left
        self.evidence: Evidence = "short"
        self.given = self.accepted = 0
        self.rejected = False


class Guessing:
    """The guesses of all requests of a model. `begin` creates a guesser, and `close` frees what they share, which takes
    `size_bytes` of memory. `source` says where they come from.
    """

    def __init__(
        self,
        begin: Callable[[Sequence[int]], Guesser],
        *,
        source: str,
        close: Callable[[], None] = lambda: None,
        size_bytes: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._begin = begin
        self._clock = clock
        self._policy = GuessPolicy(StepCosts())
        self._acceptance = Acceptance()
        self._took_s = 0.0
        self._source = source
        self.close = close
        self.size_bytes = size_bytes
        self._given = self._accepted = 0

    @property
    def told(self) -> str:
        """What ``details.guesses`` says."""
        right = f"; {self._accepted} of {self._given} were right" if self._given else ""
        return f"{self._source}, where they win{right}"

    def plan(self, ready: Sequence[LlamaSequence], cells_of: Callable[[int], int], most_rows: int) -> None:
        """Set the guesses of those for whom they are expected to win. `cells_of` says how many cells a stream has; the
        step has at most so many rows.
        """
        requests = [self._request(sequence) for sequence in ready]
        candidates = []
        for sequence, request in zip(ready, requests, strict=True):
            stream = sequence.owned
            room = min(sequence.num_ctx, cells_of(stream.index)) - len(stream.tokens) - 1
            wanted = room if request.left is None else min(room, request.left - 1)
            offer = request.guesser.offer(max(0, min(wanted, LENGTHS[-1])))
            request.evidence = offer.evidence
            share = request.acceptance.share(offer.evidence)
            candidates.append(GuessCandidate(offer.length, share, offer.evidence == "draft"))
        began = self._clock()  # what is done once for a prompt is not counted
        lengths = self._policy.lengths(candidates, most_rows)
        for sequence, request, length in zip(ready, requests, lengths, strict=True):
            sequence.guess = request.guesser.guess(length) if length else []
            request.given, request.accepted, request.rejected = len(sequence.guess), 0, False
        self._took_s = self._clock() - began

    def _request(self, sequence: LlamaSequence) -> GuessedRequest:
        if sequence.guessed is None:
            guesser = self._begin([*sequence.cells.text_ids, sequence.pending])
            limit = sequence.request.sampling.num_predict
            left = None if limit is None else limit - 1
            sequence.guessed = GuessedRequest(guesser, Acceptance(self._acceptance), left)
        return sequence.guessed

    def learn(self, ready: Sequence[LlamaSequence], took_s: float) -> None:
        """Call when the tokens of the step that was planned have been chosen; computing it took so long."""
        requests = [sequence.guessed for sequence in ready if sequence.guessed is not None]
        tokens = len(requests)
        for request in requests:
            if request.given:
                request.acceptance.record(request.evidence, request.accepted, rejected=request.rejected)
                tokens += request.accepted
                self._given += request.given
                self._accepted += request.accepted
        given = [request.given for request in requests if request.given]
        drafted = any(request.given and request.evidence == "draft" for request in requests)
        kind = StepKind(len(requests), len(given), max(given, default=0), drafted)
        self._policy.record(kind, took_s + self._took_s, tokens)


class Chosen(NamedTuple):
    """The tokens that a sequence got in a step, whether the last ends its answer, and the error that does."""

    tokens: list[Token]
    ended: bool = False
    error: CorralError | None = None


def choose_tokens(sequence: LlamaSequence, logits: Iterable[Logits]) -> Chosen:
    """Choose the token after the pending one, and one after each guess for as long as it is what was chosen. Such a
    guess has been computed: its stream has it from now on.
    """
    tokens: list[Token] = []
    guess, sequence.guess = sequence.guess, []
    request = sequence.guessed
    for at, row in enumerate(logits):
        try:
            token, sequence.pending, ended = sequence.chooser.choose(row)
        except CorralError as error:
            return Chosen(tokens, error=error)
        tokens.append(token)
        if request is not None:
            request.guesser.add(sequence.pending)
            request.left = None if request.left is None else request.left - 1
        if ended:
            return Chosen(tokens, ended=True)
        if at == len(guess):
            break
        if guess[at] != sequence.pending:
            if request is not None:
                request.rejected = True
            break
        sequence.owned.tokens.append(sequence.pending)
        if request is not None:
            request.accepted = at + 1
    return Chosen(tokens)

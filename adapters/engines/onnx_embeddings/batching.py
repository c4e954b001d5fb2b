"""Chooses texts to compute together: of similar length, few per step, and with a turn for every request."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from corral.core.stepping.fair_queue import FairQueue

__all__ = ("Batcher", "EmbeddingJob")

_LEAST_TOKENS, _MOST_TOKENS = 64, 16_384


class EmbeddingJob:
    """One request. Its longest texts are computed first, so that those of a batch need little padding.

    If the texts are pairs, `seconds` says where the second text of each begins.
    """

    def __init__(
        self, request_id: int, texts: Sequence[list[int]], owner: str = "", seconds: Sequence[int] | None = None
    ) -> None:
        self.request_id = request_id
        self.owner = owner
        self.texts = texts
        self.seconds = seconds
        self.vectors: dict[int, npt.NDArray[np.float32]] = {}  # by the text's index
        self._waiting = deque(sorted(range(len(texts)), key=lambda place: -len(texts[place])))

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.texts))

    @property
    def done(self) -> bool:
        return len(self.vectors) == len(self.texts)

    @property
    def longest(self) -> int:
        """The length of the longest text that has not been taken yet; 0 if all have."""
        return len(self.texts[self._waiting[0]]) if self._waiting else 0

    def take(self) -> int:
        """The index of the longest text that has not been taken yet."""
        return self._waiting.popleft()


class Batcher:
    """Owners take turns in leading, and so do the jobs of each.

    A step should take `step_s`; earlier steps show how many tokens that allows.
    """

    def __init__(self, step_s: float, tokens_per_s: float) -> None:
        self._step_s = step_s
        self._tokens_per_s = tokens_per_s
        self._jobs: FairQueue[EmbeddingJob] = FairQueue(lambda job: job.owner)

    @property
    def jobs(self) -> tuple[EmbeddingJob, ...]:
        """The jobs that are neither finished nor aborted."""
        return tuple(self._jobs)

    def add(self, job: EmbeddingJob) -> None:
        self._jobs.append(job)

    def remove(self, request_id: int) -> None:
        for job in self._jobs:
            if job.request_id == request_id:
                self._jobs.remove(job)
                return

    def next(self) -> list[tuple[EmbeddingJob, int]]:
        """The texts of the next step, by job and index; at least one if any are left.

        First those of the job whose turn it is, then others of similar length that fit.
        """
        if not self._jobs:
            return []
        lead = self._jobs.popleft()
        self._jobs.append(lead)
        longest = lead.longest
        room = max(1, self._budget() // longest) if longest else 0
        chosen: list[tuple[EmbeddingJob, int]] = []
        for job in (lead, *(job for job in self._jobs if job is not lead)):
            # The leading job's own texts may get shorter; texts of others may not cost much padding.
            least = 1 if job is lead else longest // 2
            while len(chosen) < room and least <= job.longest <= longest:
                chosen.append((job, job.take()))
        return chosen

    def took(self, tokens: int, seconds: float) -> None:
        """Record the time of a step with this many tokens, including padding."""
        if tokens and seconds > 0:
            self._tokens_per_s += 0.3 * (tokens / seconds - self._tokens_per_s)

    def _budget(self) -> int:
        return min(_MOST_TOKENS, max(_LEAST_TOKENS, int(self._step_s * self._tokens_per_s)))

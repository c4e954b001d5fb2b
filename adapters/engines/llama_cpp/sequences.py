"""A completion on its way through the engine: its prompt, its stream and its progress."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corral.adapters.engine_kit.admission import AdmittedPrompt
from corral.adapters.engine_kit.token_choosing import TokenChooser
from corral.adapters.engines.llama_cpp.prompt_cells import PromptCells
from corral.adapters.engines.llama_cpp.sampler import Sampler
from corral.adapters.engines.llama_cpp.streams import CacheStream, common_prefix
from corral.core.requests.requests import CompletionRequest

if TYPE_CHECKING:
    from corral.adapters.engines.llama_cpp.guessing import GuessedRequest

__all__ = ("CELLS_AHEAD", "LlamaSequence")

CELLS_AHEAD = 64
"""So many tokens before there is no room, more is made, so that an answer does not have to wait for it."""


class LlamaSequence:
    """One request. It owns `stream` from admission to its end; `pending` is the token to be decoded next. `prompt` are
    the keys of its cells. While `reading`, its prefix is on its way from the disk. `guess` are the tokens that are
    computed after `pending` in the same step, and may be wrong. A context with images never shifts.
    """

    __slots__ = (
        "admitted",
        "awaited",
        "awaited_length",
        "began_ns",
        "cached",
        "cells",
        "chooser",
        "guess",
        "guessed",
        "num_ctx",
        "num_keep",
        "pending",
        "prompt",
        "reading",
        "request",
        "request_id",
        "sampler",
        "shift",
        "shifted",
        "stream",
    )

    def __init__(
        self,
        request: CompletionRequest,
        admitted: AdmittedPrompt,
        cells: PromptCells,
        sampler: Sampler,
        chooser: TokenChooser,
    ) -> None:
        self.request_id = -1  # until the engine accepts it
        self.request = request
        self.admitted = admitted
        self.cells = cells
        self.prompt = cells.keys
        self.sampler = sampler
        self.chooser = chooser
        self.num_ctx = admitted.num_ctx
        self.num_keep = request.context.num_keep
        self.shift = request.context.shift and not cells.has_images
        self.shifted = False
        self.stream: CacheStream | None = None
        self.began_ns = 0
        self.cached = 0
        self.pending = -1
        self.guess: list[int] = []
        self.guessed: GuessedRequest | None = None
        self.awaited: LlamaSequence | None = None
        self.awaited_length = 0
        self.reading = False

    def close(self) -> None:
        """Free what it has besides its stream."""
        self.sampler.close()
        if self.guessed is not None:
            self.guessed.guesser.close()

    @property
    def owned(self) -> CacheStream:
        assert self.stream is not None
        return self.stream

    @property
    def computed(self) -> int:
        """The number of prompt tokens in memory."""
        return len(self.stream.tokens) if self.stream is not None else 0

    @property
    def cells_soon(self) -> int:
        """How many cells it needs for its prompt, and for the next part of its answer."""
        return min(self.num_ctx, max(len(self.prompt), self.computed) + CELLS_AHEAD)

    @property
    def cells_next(self) -> int:
        """How many cells it needs to go on."""
        return max(len(self.prompt), self.computed + 1)

    def has_room(self, cells: int) -> bool:
        """Whether the next token of its answer can be computed with so many cells, or it is as long as it may be."""
        return self.computed < cells or self.computed >= self.num_ctx

    @property
    def remaining(self) -> int:
        """The number of prompt tokens yet to be computed."""
        return len(self.prompt) - self.computed

    def shares(self, other: LlamaSequence, limit: int) -> int:
        """How many tokens this prompt can reuse of another's."""
        return self.cells.reusable(common_prefix(self.prompt, other.prompt, limit))

    @property
    def held_up(self) -> bool:
        """Whether it waits for its prefix: another computes it, or it is being read."""
        return self.reading or self.awaited is not None

    def still_waits(self) -> bool:
        """Whether the prefix it waits for is still being computed by another."""
        awaited = self.awaited
        return awaited is not None and awaited.stream is not None and awaited.computed < self.awaited_length

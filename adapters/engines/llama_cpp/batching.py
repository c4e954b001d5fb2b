"""The step loop over llama.cpp: admit requests to streams, decode one token each, prefill within a budget.

A step is one `llama_decode` with one token of every generating sequence, then prompt chunks, one sequence per call.
Each stream has its own cells, so that nothing is ever preempted: requests that find no stream wait in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from corral.adapters.engine_kit.admission import prefilled
from corral.adapters.engine_kit.prefixes.scoped_keys import scoped_keys
from corral.adapters.engines.llama_cpp.admitting import Admission
from corral.adapters.engines.llama_cpp.background import BackgroundWork, idle_pieces
from corral.adapters.engines.llama_cpp.growing import ContextGrowth
from corral.adapters.engines.llama_cpp.guessing import choose_tokens
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.prefix_tiers import PrefixTiers
from corral.adapters.engines.llama_cpp.sequence_making import SequenceMaker
from corral.adapters.engines.llama_cpp.sequences import LlamaSequence
from corral.adapters.engines.llama_cpp.settling import Settling
from corral.adapters.engines.llama_cpp.step_computation import Computation
from corral.adapters.engines.llama_cpp.streams import Streams
from corral.core.errors import CorralError, EngineError
from corral.core.ports.tokens import TokenMask
from corral.core.requests.outputs import ContextShifted, EngineFailed, EngineFinished, EngineOutput, FinishReason
from corral.core.requests.requests import CompletionRequest
from corral.core.stepping.fair_queue import FairQueue

__all__ = ("Completions", "Outputs")

_READING_S = 0.05
"""How long a step waits for the disk if there is nothing else to do."""

Outputs = list[tuple[int, EngineOutput]]


class Completions:
    """Every completion of one model, from admission to its last token. One thread owns it.

    `background` is done while there are no requests, the first first. The list may grow after this.
    """

    def __init__(
        self,
        *,
        context: LlamaContext,
        sequences: SequenceMaker,
        streams: Streams,
        growing: ContextGrowth,
        tiers: PrefixTiers,
        computation: Computation,
        can_shift: bool,
        background: Sequence[BackgroundWork] = (),
    ) -> None:
        self._context = context
        self._streams = streams
        self._growing = growing
        self._tiers = tiers
        self._computation = computation
        self._can_shift = can_shift
        self._settling = Settling(streams, computation)
        self._background = background
        self.sequences = sequences
        self._waiting: FairQueue[LlamaSequence] = FairQueue(lambda one: one.request.caller.principal.name)
        self._prefilling: deque[LlamaSequence] = deque()
        self._generating: list[LlamaSequence] = []
        self._admission = Admission(context, streams, tiers, computation, self._waiting, self._prefilling)

    @property
    def busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._waiting or self._prefilling or self._generating)

    def add(self, request_id: int, request: CompletionRequest, mask: TokenMask | None) -> None:
        """Raises `PromptTooLong`, `InvalidOption`, `Unsupported`."""
        self.add_sequence(request_id, self.sequences.make(request), mask)

    def add_sequence(self, request_id: int, sequence: LlamaSequence, mask: TokenMask | None) -> None:
        """Accept what `sequences` has made."""
        sequence.request_id = request_id
        sequence.sampler.mask = mask
        self._waiting.append(sequence)

    def step(self, outputs: Outputs) -> None:
        self._computation.begin_step()
        moves = self._growing.step((*self._prefilling, *self._generating), self._waiting)
        self._computation.charge(moves.took_s)
        for sequence in moves.lost:
            self._fail(
                sequence, EngineError("llama.cpp could not move it to another context", "send it again"), outputs
            )
        self._admission.admit(answering=bool(self._generating))
        told = len(outputs)
        if self._generating:
            self._decode(outputs)
        if self._prefilling:
            self._prefill(outputs)
            if not self._generating and all(one.held_up for one in self._prefilling):
                self._tiers.wait(_READING_S)
        elif self.busy and len(outputs) == told:  # all wait for more cells
            needy = max(self._generating, key=lambda one: one.cells_next, default=None)
            blocked = needy or self._waiting.first()
            refused = self._growing.wait(blocked.cells_next)
            if refused is not None:
                self._fail(blocked, refused, outputs)

    def idle(self) -> float | None:
        """As `IdlingEngine.idle`."""
        return idle_pieces((self._settling.piece, *self._background))

    def abort(self, request_id: int) -> bool:
        """Return False if the request is unknown here."""
        for sequences in (self._waiting, self._prefilling, self._generating):
            for sequence in sequences:
                if sequence.request_id == request_id:
                    sequences.remove(sequence)
                    self._end(sequence)
                    return True
        return False

    def close(self) -> None:
        for sequences in (self._waiting, self._prefilling, self._generating):
            for sequence in sequences:
                sequence.close()
            sequences.clear()
        self._growing.close()
        self._tiers.close()
        self._computation.close()

    # ── Decode ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _decode(self, outputs: Outputs) -> None:
        able = [one for one in self._generating if one.has_room(self._context.cells_of(one.owned.index))]
        ready = [sequence for sequence in able if self._make_room(sequence, outputs)]
        if not ready:
            return
        for sequence, rows in self._computation.tokens(ready):
            if isinstance(rows, EngineError):
                self._fail(sequence, rows, outputs)
            else:
                self._choose(sequence, rows, outputs)

    def _make_room(self, sequence: LlamaSequence, outputs: Outputs) -> bool:
        """Shift a context that is full, or end its answer with ``length``."""
        stream = sequence.owned
        used = len(stream.tokens)
        if used < sequence.num_ctx:
            return True
        keep = len(sequence.prompt) if sequence.num_keep < 0 else sequence.num_keep
        keep = min(keep, sequence.num_ctx - 4)
        drop = (used - keep) // 2
        if not sequence.shift or not self._can_shift or drop <= 0:
            self._finish(sequence, "length", outputs)
            return False
        self._context.discard(stream.index, stream.position(keep), stream.position(keep + drop))
        del stream.tokens[keep : keep + drop]
        if not keep:
            stream.tokens = scoped_keys(stream.tokens, sequence.request.caller.principal.prefix_scope)
        stream.reusable = min(stream.reusable, keep)
        sequence.shifted = True
        outputs.append((sequence.request_id, ContextShifted(dropped_tokens=drop)))
        return True

    # ── Prefill ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _prefill(self, outputs: Outputs) -> None:
        """Compute prompts within the step's budget, taking turns between them."""
        budget = self._computation.budget(answering=bool(self._generating))
        for _ in range(len(self._prefilling)):
            sequence = self._prefilling.popleft()
            count = 0
            try:
                while not sequence.held_up and sequence.remaining:
                    chunk = self._computation.next_chunk(sequence, budget)
                    if chunk == 0:
                        break
                    if self._computation.prompt(sequence, chunk):
                        count = chunk
                        budget -= chunk
                    else:
                        budget = min(budget, self._computation.budget(answering=bool(self._generating)))
            except EngineError as error:
                self._fail(sequence, error, outputs)
                continue
            if sequence.remaining:
                self._prefilling.append(sequence)
            else:
                self._begin(sequence, count - 1, outputs)
                budget = min(budget, self._computation.budget(answering=True))

    def _begin(self, sequence: LlamaSequence, row: int, outputs: Outputs) -> None:
        """The prompt is in memory: report it, and choose the first token."""
        told = prefilled(
            sequence.request,
            sequence.admitted,
            cached=sequence.cached,
            shifts=self._can_shift and not sequence.cells.has_images,
            began_ns=sequence.began_ns,
        )
        outputs.append((sequence.request_id, told))
        sequence.sampler.remember(sequence.cells.text_ids)
        self._generating.append(sequence)
        self._choose(sequence, (row,), outputs)

    # ── Tokens out ────────────────────────────────────────────────────────────────────────────────────────────────

    def _choose(self, sequence: LlamaSequence, rows: Sequence[int], outputs: Outputs) -> None:
        chosen = choose_tokens(sequence, map(self._context.logits, rows))
        self._computation.keep_chosen(sequence, rows)
        outputs += ((sequence.request_id, token) for token in chosen.tokens)
        if chosen.error is not None:
            self._fail(sequence, chosen.error, outputs)
        elif chosen.ended:
            self._finish(sequence, "stop", outputs)

    def _finish(self, sequence: LlamaSequence, reason: FinishReason, outputs: Outputs) -> None:
        outputs.append((sequence.request_id, EngineFinished(reason=reason)))
        self._generating.remove(sequence)
        self._end(sequence)

    def _fail(self, sequence: LlamaSequence, error: CorralError, outputs: Outputs) -> None:
        outputs.append((sequence.request_id, EngineFailed(error=error.info)))
        for sequences in (self._generating, self._waiting, self._prefilling):
            if sequence in sequences:
                sequences.remove(sequence)
        self._release(sequence)

    def _end(self, sequence: LlamaSequence) -> None:
        if sequence.stream is not None:
            self._settling.ended(sequence)
        self._release(sequence)

    def _release(self, sequence: LlamaSequence) -> None:
        sequence.close()
        if sequence.stream is not None:
            self._streams.release(sequence.stream)
            sequence.stream = None

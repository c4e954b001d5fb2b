"""The step loop over llama.cpp: admit requests to streams, decode one token each, prefill within a budget.

A step is one `llama_decode` with one token of every generating sequence, then prompt chunks, one sequence per call. A
stream's cells are its own, so nothing is ever preempted: requests beyond the streams wait in order.
"""

from __future__ import annotations

import time
from collections import deque

from corral.adapters.engines.llama_cpp.native import Batch, Context, Model
from corral.adapters.engines.llama_cpp.rows import filler_rows
from corral.adapters.engines.llama_cpp.sampler import Candidates, Sampler, logprob_of
from corral.adapters.engines.llama_cpp.sequences import Sequence
from corral.adapters.engines.llama_cpp.streams import Stream, Streams
from corral.adapters.engines.llama_cpp.tokenizer import LlamaTokenizer
from corral.adapters.thread_tuning import ThreadTuner
from corral.core.errors import CorralError, EngineError, PromptTooLong, Unsupported
from corral.core.outputs import EngineFailed, EngineFinished, EngineOutput, FinishReason, Prefilled, Token
from corral.core.ports.inference import TokenMask
from corral.core.requests import CompletionRequest

__all__ = ("Completions", "Outputs")

_STEP_GOAL_S = 0.5
"""A step that only prefills takes about so long: cancelling waits for no more."""
_WORTH_COPYING = 16
_WORTH_WAITING = 32
"""Shorter prefixes are computed again rather than copied or waited for."""

Outputs = list[tuple[int, EngineOutput]]


class Completions:
    """Every completion of one model, from admission to its last token. One thread owns it."""

    def __init__(
        self,
        *,
        model: Model,
        context: Context,
        tokenizer: LlamaTokenizer,
        streams: Streams,
        batch: Batch,
        tuner: ThreadTuner,
        max_prefill_tokens: int,
        largest_chunk: int,
        can_shift: bool,
        exact: bool,
        pair_rows: bool,
    ) -> None:
        self._model = model
        self._context = context
        self._tokenizer = tokenizer
        self._streams = streams
        self._batch = batch
        self._tuner = tuner
        self._budget = max_prefill_tokens
        self._largest_chunk = largest_chunk
        self._can_shift = can_shift
        self._exact = exact
        self._pair_rows = pair_rows
        self._candidates = Candidates(model.vocabulary_size)
        self._ends = frozenset(tokenizer.ends(model.vocabulary_size))
        self._waiting: deque[Sequence] = deque()
        self._prefilling: deque[Sequence] = deque()
        self._generating: list[Sequence] = []
        self._prefill_rate = float(largest_chunk)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._prefilling or self._generating)

    def add(self, request_id: int, request: CompletionRequest, mask: TokenMask | None) -> None:
        """Raises `PromptTooLong`, `InvalidOption`, `Unsupported`."""
        self._waiting.append(self._sequence(request_id, request, mask))

    def step(self, outputs: Outputs) -> None:
        self._admit()
        if self._generating:
            self._decode(outputs)
        if self._prefilling:
            self._prefill(outputs)

    def abort(self, request_id: int) -> bool:
        """False where it is no request of this."""
        for sequences in (self._waiting, self._prefilling, self._generating):
            for sequence in sequences:
                if sequence.request_id == request_id:
                    sequences.remove(sequence)
                    self._release(sequence)
                    return True
        return False

    def close(self) -> None:
        for sequence in (*self._waiting, *self._prefilling, *self._generating):
            sequence.sampler.close()
        self._waiting.clear()
        self._prefilling.clear()
        self._generating.clear()
        self._context.close()

    # ── Requests in ───────────────────────────────────────────────────────────────────────────────────────────────

    def _sequence(self, request_id: int, request: CompletionRequest, mask: TokenMask | None) -> Sequence:
        prompt = self._tokenizer.tokens(request.prompt)
        num_ctx = min(request.context.num_ctx or self._context.num_ctx, self._context.num_ctx)
        if len(prompt) >= num_ctx:
            raise PromptTooLong(
                f"the prompt of {len(prompt)} tokens is longer than the context of {num_ctx}",
                "shorten the prompt, or raise num_ctx",
            )
        if not prompt:
            raise Unsupported("an empty prompt has nothing to continue, and this model has no BOS token to begin with")
        preserved = (self._tokenizer.control_id(text) for text in request.preserved_tokens)
        sampler = Sampler(
            request.sampling,
            model=self._model,
            tokenizer=self._tokenizer,
            ends=sorted(self._ends),
            num_ctx=num_ctx,
            candidates=self._candidates,
            mask=mask,
        )
        return Sequence(
            request_id,
            request,
            prompt,
            sampler,
            num_ctx=num_ctx,
            preserved=frozenset(token for token in preserved if token is not None),
        )

    def _admit(self) -> None:
        """Give waiting requests a stream, in order, and the longest prefix that is already in memory."""
        while self._waiting and self._streams.any_idle:
            sequence = self._waiting.popleft()
            limit = self._reusable_limit(sequence)
            source, shared = self._streams.best_prefix(sequence.prompt, limit)
            for other in self._prefilling:
                soon = sequence.shares(other, limit)
                if soon >= shared + _WORTH_WAITING and soon > sequence.awaited_length:
                    # Another is computing this very prefix: wait for it rather than compute it as well.
                    sequence.awaited, sequence.awaited_length = other, soon
            sequence.stream = self._streams.take(source, shared)
            if sequence.awaited is None:
                self._load_prefix(sequence, source, shared)
            else:
                self._streams.cut(sequence.stream, 0)
            self._prefilling.append(sequence)
        for sequence in self._prefilling:
            if sequence.awaited is not None and not sequence.still_waits():
                sequence.awaited = None
                source, shared = self._streams.best_prefix(sequence.prompt, self._reusable_limit(sequence))
                self._load_prefix(sequence, source, shared)
        self._streams.drop_snapshot()

    def _reusable_limit(self, sequence: Sequence) -> int:
        # The last token is always computed, for its logits; exact texts need a last chunk of two.
        return len(sequence.prompt) - (2 if self._exact else 1)

    def _load_prefix(self, sequence: Sequence, source: Stream | None, shared: int) -> None:
        if source is not sequence.stream and shared < _WORTH_COPYING:
            shared = 0
        sequence.cached = self._streams.load_prefix(sequence.owned, source, shared)

    # ── Decode ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _decode(self, outputs: Outputs) -> None:
        ready = [sequence for sequence in self._generating if self._make_room(sequence, outputs)]
        if not ready:
            return
        ready.sort(key=_stream_index)
        fillers = self._fillers([sequence.owned.index for sequence in ready])
        rows = [(sequence.pending, len(sequence.owned.tokens), sequence.owned.index) for sequence in ready]
        rows.extend((0, len(filler.tokens), filler.index) for filler in fillers)
        order = sorted(range(len(rows)), key=lambda row: rows[row][2])
        self._batch.fill_rows([rows[row] for row in order])
        began = time.perf_counter()
        code = self._context.decode(self._batch)
        took = time.perf_counter() - began
        for filler in fillers:
            self._context.trim(filler.index, len(filler.tokens))
        if code != 0:
            self._decode_one_by_one(ready, code, outputs)
            return
        place = {row: at for at, row in enumerate(order)}
        for row, sequence in enumerate(ready):
            sequence.owned.tokens.append(sequence.pending)
            self._count_reusable(sequence)
            self._choose(sequence, place[row], outputs)
        self._context.set_threads(self._tuner.record(len(rows), took))

    def _make_room(self, sequence: Sequence, outputs: Outputs) -> bool:
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
        self._context.discard(stream.index, keep, keep + drop)
        del stream.tokens[keep : keep + drop]
        stream.reusable = min(stream.reusable, keep)
        return True

    def _fillers(self, busy: list[int]) -> list[Stream]:
        """Streams to compute along, with room for a token that is dropped afterwards."""
        if not self._streams.trimmable:
            return []
        fillers = [self._streams[index] for index in filler_rows(busy, len(self._streams), pair_rows=self._pair_rows)]
        for filler in fillers:
            if len(filler.tokens) >= self._streams.capacity:
                self._streams.cut(filler, 0)
        return fillers

    def _decode_one_by_one(self, ready: list[Sequence], code: int, outputs: Outputs) -> None:
        """A batch failed: find out whose fault it was, and fail only that one."""
        self._streams.resync()
        for sequence in ready:
            stream = sequence.owned
            if len(ready) > 1:
                self._batch.fill_rows([(sequence.pending, len(stream.tokens), stream.index)])
                code = self._context.decode(self._batch)
            if code == 0:
                stream.tokens.append(sequence.pending)
                self._count_reusable(sequence)
                self._choose(sequence, 0, outputs)
            else:
                self._fail(sequence, _undecodable(code), outputs)

    # ── Prefill ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _prefill(self, outputs: Outputs) -> None:
        """Compute prompts within the step's budget, taking turns between them."""
        if self._generating:
            budget = self._budget
        else:
            budget = int(min(self._largest_chunk, max(self._budget, self._prefill_rate * _STEP_GOAL_S)))
        for _ in range(len(self._prefilling)):
            sequence = self._prefilling.popleft()
            count = 0 if sequence.awaited is not None else self._chunk(sequence.remaining, budget)
            if count == 0:
                self._prefilling.append(sequence)
                continue
            budget -= count
            code = self._compute(sequence, count)
            if code != 0:
                self._fail(sequence, _undecodable(code), outputs)
            elif sequence.remaining:
                self._prefilling.append(sequence)
            else:
                self._begin(sequence, count - 1, outputs)
                budget = min(budget, self._budget)

    def _chunk(self, remaining: int, budget: int) -> int:
        """How many tokens to compute now. Never one of several: a lone row takes another kernel."""
        count = min(remaining, budget)
        if self._exact and remaining > 1:
            if remaining - count == 1:
                count -= 1
            if count < 2:
                return 0
        return count

    def _compute(self, sequence: Sequence, count: int) -> int:
        """Decode the next `count` prompt tokens; returns llama.cpp's code."""
        stream = sequence.owned
        start = len(stream.tokens)
        tokens = sequence.prompt[start : start + count]
        last = start + count == len(sequence.prompt)
        self._batch.fill_chunk(tokens, start, stream.index, last=last)
        began = time.perf_counter()
        code = self._context.decode(self._batch)
        took = time.perf_counter() - began
        if code != 0:
            self._streams.resync()
            return code
        if count >= 16:
            self._context.set_threads(self._tuner.record_prefill(count, took))
            self._prefill_rate += 0.3 * (count / max(took, 1e-9) - self._prefill_rate)
        stream.tokens.extend(tokens)
        if not (self._exact and len(sequence.prompt) == 1):
            stream.reusable = len(stream.tokens)
        return 0

    def _begin(self, sequence: Sequence, row: int, outputs: Outputs) -> None:
        """The prompt is in memory: say so, and choose the first token."""
        request = sequence.request
        outputs.append(
            (
                sequence.request_id,
                Prefilled(
                    prompt_tokens=len(sequence.prompt),
                    cached_tokens=sequence.cached,
                    ignored_options=tuple(sorted(request.engine_options)),
                    prompt_ids=tuple(sequence.prompt) if request.return_token_ids else (),
                ),
            )
        )
        sequence.sampler.remember(sequence.prompt)
        self._generating.append(sequence)
        self._choose(sequence, row, outputs)

    # ── Tokens out ────────────────────────────────────────────────────────────────────────────────────────────────

    def _choose(self, sequence: Sequence, row: int, outputs: Outputs) -> None:
        try:
            logits = self._context.logits(row)
            token = sequence.sampler.choose(logits)
        except CorralError as error:
            self._fail(sequence, error, outputs)
            return
        wanted = sequence.request.logprobs
        logprob = None if wanted is None else logprob_of(token, logits, wanted, self._tokenizer)
        ended = token in self._ends and token not in sequence.preserved
        piece = b"" if ended else self._tokenizer.piece(token, special=token in sequence.preserved)
        outputs.append((sequence.request_id, Token(token_id=token, piece=piece, logprob=logprob)))
        sequence.pending = token
        if ended:
            self._finish(sequence, "stop", outputs)

    def _count_reusable(self, sequence: Sequence) -> None:
        # A generated token was computed as one row; as part of a prompt it would come out a little different.
        if not self._exact:
            sequence.owned.reusable = len(sequence.owned.tokens)

    def _finish(self, sequence: Sequence, reason: FinishReason, outputs: Outputs) -> None:
        outputs.append((sequence.request_id, EngineFinished(reason=reason)))
        self._generating.remove(sequence)
        self._release(sequence)

    def _fail(self, sequence: Sequence, error: CorralError, outputs: Outputs) -> None:
        outputs.append((sequence.request_id, EngineFailed(error=error.info)))
        if sequence in self._generating:
            self._generating.remove(sequence)
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        sequence.sampler.close()
        if sequence.stream is not None:
            self._streams.release(sequence.stream)
            sequence.stream = None


def _undecodable(code: int) -> EngineError:
    return EngineError(f"llama.cpp could not decode (code {code})", "see the log; a smaller num_ctx may help")


def _stream_index(sequence: Sequence) -> int:
    return sequence.owned.index

"""The ONNX Runtime GenAI `StepEngine`: one continuation per request, computed in turn.

The library's own batching needs kernels that do not exist for CPUs, so that a step computes one token of every
generating request, one after the other, then prompt pieces within a budget. Every prompt is computed in pieces that
begin at multiples of a fixed length, and only whole pieces are reused: the result does not depend on other requests.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from corral.adapters.engine_kit.admission import AdmittedPrompt, admitted, prefilled
from corral.adapters.engine_kit.prefixes.scoped_keys import scoped_keys
from corral.adapters.engine_kit.sampling import LogitsSampler
from corral.adapters.engine_kit.token_choosing import ModelTokens, TokenChooser
from corral.adapters.engines.onnx_genai.continuations import Continuations
from corral.adapters.engines.onnx_genai.native import Continuation
from corral.adapters.engines.onnx_genai.tokenizer import FolderTokenizer
from corral.core.errors import CorralError, Unsupported
from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import TokenMask
from corral.core.requests.outputs import EngineFailed, EngineFinished, EngineOutput, FinishReason
from corral.core.requests.requests import CompletionRequest, Request
from corral.core.stepping.fair_queue import FairQueue

__all__ = ("OnnxGenaiEngine",)

_STEP_GOAL_S = 0.25
"""A step that only prefills takes about this long, so that cancelling is quick."""

Outputs = list[tuple[int, EngineOutput]]


class _Sequence:
    """One request. It has a `continuation` from admission to its end; `pending` is the token to be computed next."""

    __slots__ = (
        "admitted",
        "began_ns",
        "cached",
        "chooser",
        "continuation",
        "ignored",
        "keys",
        "num_ctx",
        "pending",
        "prompt",
        "request",
        "request_id",
        "sampler",
    )

    def __init__(
        self,
        request_id: int,
        request: CompletionRequest,
        admitted: AdmittedPrompt,
        sampler: LogitsSampler,
        chooser: TokenChooser,
    ) -> None:
        self.request_id = request_id
        self.request = request
        self.admitted = admitted
        self.prompt = list(admitted.ids)
        self.keys = scoped_keys(self.prompt, request.caller.principal.prefix_scope)
        self.sampler = sampler
        self.chooser = chooser
        self.num_ctx = admitted.num_ctx
        self.continuation: Continuation | None = None
        self.began_ns = 0
        self.cached = 0
        self.pending = -1


class OnnxGenaiEngine:
    """Created by `build_engine`; one thread owns it."""

    def __init__(
        self, *, continuations: Continuations, tokenizer: FolderTokenizer, info: ModelInfo, num_ctx: int, piece: int
    ) -> None:
        self._continuations = continuations
        self._tokenizer = tokenizer
        self._info = info
        self._num_ctx = num_ctx
        self._piece = piece
        self._tokens = ModelTokens.of(tokenizer.vocabulary(), size=tokenizer.size, control_id=tokenizer.control_id)
        self._waiting: FairQueue[_Sequence] = FairQueue(lambda one: one.request.caller.principal.name)
        self._prefilling: deque[_Sequence] = deque()
        self._generating: list[_Sequence] = []

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def tokenizer(self) -> FolderTokenizer:
        return self._tokenizer

    def add_request(self, request_id: int, request: Request, mask: TokenMask | None) -> None:
        if not isinstance(request, CompletionRequest):
            raise Unsupported(f"the onnx-genai engine does not take a {type(request).__name__}")
        prompt = admitted(request, self._tokenizer.tokens(request.prompt), self._num_ctx)
        sampler = LogitsSampler(
            request.sampling,
            vocabulary_size=self._tokens.size,
            num_ctx=prompt.num_ctx,
            encode=self._tokenizer.text_tokens,
            decode_piece=self._tokenizer.piece,
            ends=self._tokens.ends,
            mask=mask,
        )
        chooser = TokenChooser(request, sampler, self._tokens)
        self._waiting.append(_Sequence(request_id, request, prompt, sampler, chooser))

    def step(self) -> Sequence[tuple[int, EngineOutput]]:
        outputs: Outputs = []
        self._admit(outputs)
        for sequence in tuple(self._generating):
            self._decode(sequence, outputs)
        if self._prefilling:
            self._prefill(outputs)
        return outputs

    def has_unfinished_requests(self) -> bool:
        return bool(self._waiting or self._prefilling or self._generating)

    def abort_request(self, request_id: int) -> None:
        for sequences in (self._waiting, self._prefilling, self._generating):
            for sequence in sequences:
                if sequence.request_id == request_id:
                    sequences.remove(sequence)
                    self._release(sequence)
                    return

    def close(self) -> None:
        self._waiting.clear()
        self._prefilling.clear()
        self._generating.clear()
        self._continuations.close()

    def _admit(self, outputs: Outputs) -> None:
        while self._waiting and self._continuations.free:
            sequence = self._waiting.popleft()
            sequence.began_ns = time.perf_counter_ns()
            try:
                sequence.continuation = self._continuations.take(sequence.keys)
            except CorralError as error:
                outputs.append((sequence.request_id, EngineFailed(error=error.info)))
            else:
                sequence.cached = sequence.continuation.length
                self._prefilling.append(sequence)

    def _decode(self, sequence: _Sequence, outputs: Outputs) -> None:
        continuation = sequence.continuation
        assert continuation is not None
        if continuation.length >= sequence.num_ctx:
            self._finish(sequence, "length", outputs)
            return
        try:
            continuation.append((sequence.pending,))
            self._choose(sequence, continuation, outputs)
        except CorralError as error:
            self._fail(sequence, error, outputs)

    def _prefill(self, outputs: Outputs) -> None:
        """Compute one piece of one prompt while anything is being generated, otherwise pieces in turn for a while."""
        until = time.monotonic() + _STEP_GOAL_S
        while self._prefilling:
            sequence = self._prefilling.popleft()
            continuation = sequence.continuation
            assert continuation is not None
            start = continuation.length
            try:
                continuation.append(sequence.prompt[start : start + self._piece])
                if continuation.length == len(sequence.prompt):
                    self._begin(sequence, continuation, outputs)
                else:
                    self._prefilling.append(sequence)
            except CorralError as error:
                self._fail(sequence, error, outputs)
            if self._generating or time.monotonic() >= until:
                return

    def _begin(self, sequence: _Sequence, continuation: Continuation, outputs: Outputs) -> None:
        """The prompt is in memory: report it, and choose the first token."""
        told = prefilled(
            sequence.request, sequence.admitted, cached=sequence.cached, shifts=False, began_ns=sequence.began_ns
        )
        outputs.append((sequence.request_id, told))
        sequence.sampler.remember(sequence.prompt)
        self._generating.append(sequence)
        self._choose(sequence, continuation, outputs)

    def _choose(self, sequence: _Sequence, continuation: Continuation, outputs: Outputs) -> None:
        token, sequence.pending, ended = sequence.chooser.choose(continuation.logits())
        outputs.append((sequence.request_id, token))
        if ended:
            self._finish(sequence, "stop", outputs)

    def _finish(self, sequence: _Sequence, reason: FinishReason, outputs: Outputs) -> None:
        outputs.append((sequence.request_id, EngineFinished(reason=reason)))
        self._generating.remove(sequence)
        self._release(sequence)

    def _fail(self, sequence: _Sequence, error: CorralError, outputs: Outputs) -> None:
        outputs.append((sequence.request_id, EngineFailed(error=error.info)))
        if sequence in self._generating:
            self._generating.remove(sequence)
        self._continuations.drop()
        sequence.continuation = None

    def _release(self, sequence: _Sequence) -> None:
        if sequence.continuation is not None:
            self._continuations.give_back(sequence.continuation, sequence.keys)
            sequence.continuation = None

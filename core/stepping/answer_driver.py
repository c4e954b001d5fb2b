"""Turns an engine's tokens into a caller's text, and ends the answer at a stop string or at a limit.

No engine has to do this itself.

Pure: no engine, no I/O. One `SequenceDriver` follows one completion; `TaskDriver` follows a request of any other task.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable
from typing import Protocol

from corral.core.errors import PluginError, Unsupported
from corral.core.ports.tokens import RequestMask, TokenMask
from corral.core.requests.outputs import (
    ContextShifted,
    Delta,
    Embedded,
    EngineEmbedded,
    EngineFinished,
    EngineOutput,
    EngineRanked,
    Finished,
    FinishReason,
    Output,
    Prefilled,
    Ranked,
    Started,
    Token,
    Usage,
)
from corral.core.requests.requests import CompletionRequest, Request
from corral.core.stepping.stop_strings import StopStrings

__all__ = ("RequestDriver", "SequenceDriver", "TaskDriver", "driver_for", "needs_mask")

_UNLIMITED_CONTEXTS = 10
"""An answer without `num_predict` ends after this many contexts, as in Ollama, to stop a model caught in a loop."""

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class RequestDriver(Protocol):
    """Turns an engine's outputs for one request into the caller's."""

    @property
    def mask(self) -> TokenMask | None: ...

    def begin(self) -> None:
        """Call when the engine begins with the request; until then the request counts as queued."""
        ...

    def feed(self, output: EngineOutput) -> tuple[list[Output], bool]:
        """Return what the caller gets, and whether the request is over. If it is, nothing more may be fed."""
        ...


def needs_mask(request: Request) -> bool:
    """Whether the request cannot run without a mask."""
    if not isinstance(request, CompletionRequest):
        return False
    return request.constraint is not None or (request.thinking is not None and request.thinking.max_tokens is not None)


def driver_for(
    request: Request,
    *,
    context_length: int | None,
    clock_ns: Callable[[], int],
    mask: RequestMask | None = None,
    arrived_ns: int | None = None,
) -> RequestDriver:
    """Create the driver for a request. `mask` enforces its constraint and the limit of its thinking.

    `arrived_ns` is when the request arrived, by the same clock; None means now. Raises `Unsupported` if the request
    needs a mask and has none.
    """
    if isinstance(request, CompletionRequest):
        return SequenceDriver(
            request, context_length=context_length, clock_ns=clock_ns, mask=mask, arrived_ns=arrived_ns
        )
    return TaskDriver()


class SequenceDriver:
    """Follows one completion: whole characters, stop strings, length limit, timing.

    A stop string or the limit ends the sequence in the step that reaches it. Text held back for a stop string that
    never came is sent at the end; the bytes of an incomplete character are dropped. `clock_ns` is read when the driver
    is created, when the engine begins, after the prompt, and at the end.
    """

    __slots__ = (
        "_arrived_ns",
        "_at_limit",
        "_begun_ns",
        "_clock_ns",
        "_decoder",
        "_dropped",
        "_generated",
        "_ids",
        "_ignored",
        "_limit",
        "_num_ctx",
        "_prefilled",
        "_prefilled_ns",
        "_stops",
        "_uncounted",
        "mask",
    )

    def __init__(
        self,
        request: CompletionRequest,
        *,
        context_length: int | None = None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        mask: RequestMask | None = None,
        arrived_ns: int | None = None,
    ) -> None:
        if mask is None and needs_mask(request):
            raise Unsupported("this model's engine does not support formats, grammars or limits of thinking")
        sampling = request.sampling
        self._num_ctx = num_ctx = request.context.num_ctx or context_length
        unlimited = _UNLIMITED_CONTEXTS * num_ctx if num_ctx else None
        wanted = sampling.num_predict
        self._limit = unlimited if wanted is None else min(wanted, unlimited) if unlimited else wanted
        self._stops = StopStrings(sampling.stop) if any(sampling.stop) else None
        self._decoder: codecs.IncrementalDecoder | None = None
        self._ids: list[int] | None = [] if request.return_token_ids else None
        self._prefilled: Prefilled | None = None
        self._generated = 0
        self._dropped = 0
        self._uncounted = 0
        self._at_limit = False
        self._clock_ns = clock_ns
        self._begun_ns = self._prefilled_ns = clock_ns()
        self._arrived_ns = self._begun_ns if arrived_ns is None else arrived_ns
        self.mask: RequestMask | None = mask
        self._ignored = mask.ignored if mask is not None else ()

    def begin(self) -> None:
        self._begun_ns = self._prefilled_ns = self._clock_ns()

    def feed(self, output: EngineOutput) -> tuple[list[Output], bool]:
        """Return what the caller gets, and whether the sequence is over.

        Raises `PluginError` for an unexpected output.
        """
        if isinstance(output, Token):
            return self._token(output)
        if isinstance(output, Prefilled):
            return self._start(output)
        if isinstance(output, EngineFinished):
            return self._finish([], output.reason)
        if isinstance(output, ContextShifted):
            self._dropped += output.dropped_tokens
            return [], False
        raise PluginError(f"the engine answered a completion request with {type(output).__name__}")

    def _start(self, output: Prefilled) -> tuple[list[Output], bool]:
        self._prefilled = output
        self._dropped += output.dropped_tokens
        self._prefilled_ns = self._clock_ns()
        if output.prefill_ns is not None:
            self._begun_ns = max(self._begun_ns, self._prefilled_ns - output.prefill_ns)
        started = Started(
            prompt_tokens=output.prompt_tokens,
            cached_tokens=output.cached_tokens,
            dropped_tokens=output.dropped_tokens,
            ignored_options=(*output.ignored_options, *self._ignored),
        )
        if self._limit == 0:
            return self._finish([started], "length")
        if self.mask is not None:
            self._limit_mask(self.mask, output.prompt_tokens)
        return [started], False

    def _limit_mask(self, mask: RequestMask, prompt_tokens: int) -> None:
        """A format is to be complete before the context shifts: afterwards the model no longer sees how it begins."""
        rooms = [self._num_ctx - prompt_tokens] if self._num_ctx else []
        rooms += [] if self._limit is None else [self._limit]
        if rooms:
            mask.limit(max(1, min(rooms)))

    def _token(self, token: Token) -> tuple[list[Output], bool]:
        if self._at_limit:
            return self._finish([], "length")
        self._generated += 1
        self._uncounted += 1
        if self._ids is not None and token.token_id is not None:
            self._ids.append(token.token_id)
        text = self._decode(token.piece)
        stopped = False
        if self._stops is not None:
            text, stopped = self._stops.push(text)
        outputs: list[Output] = []
        if token.logprob is not None:
            outputs.append(Delta(text=text, token_count=self._uncounted, logprobs=(token.logprob,)))
            self._uncounted = 0
        elif text:
            outputs.append(Delta(text=text, token_count=self._uncounted))
            self._uncounted = 0
        if self._stops is not None and stopped:
            stop = self._stops.found
            self._stops = self._decoder = None
            return self._finish(outputs, "stop", stop)
        if self._generated == self._limit:
            if token.piece:
                return self._finish(outputs, "length")
            # An empty piece may be the EOS, and the engine may be about to say "stop": let it.
            self._at_limit = True
        return outputs, False

    def _decode(self, piece: bytes) -> str:
        if self._decoder is None:
            try:
                return piece.decode()
            except UnicodeDecodeError:
                self._decoder = _Utf8Decoder(errors="replace")
        text = self._decoder.decode(piece)
        if not self._decoder.getstate()[0]:
            self._decoder = None
        return text

    def _finish(self, outputs: list[Output], reason: FinishReason, stop: str = "") -> tuple[list[Output], bool]:
        # Bytes still in the decoder belong to a character that was cut off by the end of the answer: drop them.
        rest = self._stops.flush() if self._stops is not None else ""
        if rest:
            outputs.append(Delta(text=rest, token_count=self._uncounted))
        prefilled = self._prefilled
        usage = Usage(
            prompt_tokens=prefilled.prompt_tokens if prefilled else 0,
            cached_tokens=prefilled.cached_tokens if prefilled else 0,
            generated_tokens=self._generated,
            queued_ns=self._begun_ns - self._arrived_ns,
            prefill_ns=self._prefilled_ns - self._begun_ns,
            decode_ns=self._clock_ns() - self._prefilled_ns,
        )
        ids: tuple[int, ...] = ()
        if self._ids is not None:
            ids = (*(prefilled.prompt_ids if prefilled else ()), *self._ids)
        outputs.append(
            Finished(
                reason=reason,
                usage=usage,
                stop=stop,
                token_ids=ids,
                dropped_tokens=self._dropped,
                warnings=self.mask.warnings if self.mask is not None else (),
            )
        )
        return outputs, True


class TaskDriver:
    """Follows any other task. Vectors or scores end it; an engine's own outputs pass if they are an `Output` too."""

    __slots__ = ()

    @property
    def mask(self) -> TokenMask | None:
        return None

    def begin(self) -> None:
        pass

    def feed(self, output: EngineOutput) -> tuple[list[Output], bool]:
        if isinstance(output, EngineEmbedded):
            return [Embedded(vectors=output.vectors, prompt_tokens=output.prompt_tokens)], True
        if isinstance(output, EngineRanked):
            return [Ranked(scores=output.scores, prompt_tokens=output.prompt_tokens)], True
        if isinstance(output, EngineFinished):
            return [Finished(reason=output.reason, usage=Usage())], True
        if isinstance(output, Output):
            return [output], False
        raise PluginError(f"the engine answered with {type(output).__name__}, which is not a known output")

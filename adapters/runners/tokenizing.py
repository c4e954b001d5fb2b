"""Answers the calls to a model's tokenizer beside its steps: callers take turns, and whoever gives up is done with.

Short texts have a thread for themselves, so that none waits while native code is busy with a long one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import cast

from corral.adapters.runners.frames import Result, TokenizerCall
from corral.core.errors import PromptTooLong, Unsupported
from corral.core.ports.tokens import GradualTokenizer, Tokenizer
from corral.core.requests.prompts import Prompt, TextPart
from corral.core.stepping.loops import error_info

__all__ = ("Tokenizing",)

_SHORT_CHARACTERS = 16_384
_TURN_CHARACTERS = 8_192

Steps = Generator[None, None, Result]


class Tokenizing:
    """For one model. `answer` is called with each result, in a thread; the threads start with the first calls."""

    def __init__(self, tokenizer: Tokenizer | None, answer: Callable[[Result], object]) -> None:
        self._tokenizer = tokenizer
        self._short = _Lane("tokenizer", answer)
        self._long = _Lane("tokenizer of long texts", answer)

    def begin(self, call: TokenizerCall) -> None:
        """Its `Result` follows, unless `give_up` or `close` comes first. From any thread."""
        characters = sum(_characters(prompt) for prompt in call.prompts)
        lane = self._short if characters <= _SHORT_CHARACTERS else self._long
        lane.add(call.call_id, _answered(self._tokenizer, call))

    def give_up(self, call_id: int) -> None:
        """Nobody waits for it any more: it ends with its turn. An unknown id does nothing."""
        self._short.remove(call_id)
        self._long.remove(call_id)

    def close(self) -> None:
        """Calls that have no answer yet never get one. Does not wait for the turn under way."""
        self._short.close()
        self._long.close()


class _Lane:
    """Calls that take turns in one thread."""

    def __init__(self, name: str, answer: Callable[[Result], object]) -> None:
        self._name = name
        self._answer = answer
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Steps]] = deque()
        self._running: int | None = None
        self._started = False
        self._closed = False

    def add(self, call_id: int, steps: Steps) -> None:
        with self._changed:
            if self._closed:
                return
            self._waiting.append((call_id, steps))
            self._changed.notify()
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def remove(self, call_id: int) -> None:
        with self._changed:
            self._waiting = deque(item for item in self._waiting if item[0] != call_id)
            if self._running == call_id:
                self._running = None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._running = None
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                call_id, steps = self._waiting.popleft()
                self._running = call_id
            result: Result | None = None
            try:
                next(steps)
            except StopIteration as end:
                result = end.value
            with self._changed:
                wanted = self._running == call_id
                self._running = None
                if wanted and result is None:
                    self._waiting.append((call_id, steps))
            if wanted and result is not None:
                self._answer(result)
            steps = cast(Steps, None)  # what was given up frees its texts now


def _answered(tokenizer: Tokenizer | None, call: TokenizerCall) -> Steps:
    try:
        if tokenizer is None:
            raise Unsupported("this model's engine has no tokenizer")
        if call.method == "detokenize":
            return Result(call.call_id, text=tokenizer.decode(call.ids).decode(errors="replace"))
        return Result(call.call_id, ids=(yield from _encoded(tokenizer, call)))
    except GeneratorExit:
        raise
    except BaseException as error:  # a panic of native code is no Exception, and would end the thread
        return Result(call.call_id, error=error_info(error))


def _encoded(tokenizer: Tokenizer, call: TokenizerCall) -> Generator[None, None, list[tuple[int, ...]]]:
    gradual = cast(GradualTokenizer, tokenizer) if hasattr(tokenizer, "encode_gradually") else None
    found: list[tuple[int, ...]] = []
    since = 0
    for prompt in call.prompts:
        if since > _TURN_CHARACTERS:
            since = 0
            yield
        if gradual is None:
            found += (_bounded(ids, call) for ids in tokenizer.encode([prompt]))
        else:
            found.append((yield from gradual.encode_gradually(prompt, most=call.most, cut=call.cut)))
        since += 1 + _characters(prompt)
    return found


def _bounded(ids: tuple[int, ...], call: TokenizerCall) -> tuple[int, ...]:
    """Millions of ids that nobody needs would take memory in each process that they pass."""
    if call.most is None or len(ids) <= call.most:
        return ids
    if not call.cut:
        raise PromptTooLong(
            f"the prompt of {len(ids)} tokens is longer than the {call.most} that fit", "shorten it, or raise num_ctx"
        )
    return ids[: call.most + 1]


def _characters(prompt: Prompt) -> int:
    return sum(len(part.text) if isinstance(part, TextPart) else len(part.ids) for part in prompt)

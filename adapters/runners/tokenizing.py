"""Answers calls to a model's tokenizer in parallel to its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from corral.adapters.runners.frames import Result, TokenizerCall
from corral.adapters.runners.text_threads import Steps, TextThreads
from corral.adapters.runners.texts import characters_of, encoded
from corral.core.errors import Unsupported
from corral.core.ports.tokens import Tokenizer
from corral.core.stepping.loops import error_info

__all__ = ("Tokenizing",)

_PIECES_IN_A_TURN = 4096


class Tokenizing:
    """For one model. `answer` is called with each result, in a thread; threads start with the first calls."""

    def __init__(self, tokenizer: Tokenizer | None, answer: Callable[[Result], object]) -> None:
        self._tokenizer = tokenizer
        self._turns = TextThreads("tokenizer", answer)

    def begin(self, call: TokenizerCall) -> None:
        """Start a call. Its `Result` follows, unless `give_up` or `close` comes first. Thread-safe."""
        characters = len(call.ids) + sum(map(characters_of, call.prompts))
        self._turns.begin(call.call_id, _answered(self._tokenizer, call), characters)

    def give_up(self, call_id: int) -> None:
        """Cancel a call: it ends with its current turn. An unknown id does nothing."""
        self._turns.give_up(call_id)

    def close(self) -> None:
        """Cancels all unanswered calls. Does not wait for the turn in progress."""
        self._turns.close()


def _answered(tokenizer: Tokenizer | None, call: TokenizerCall) -> Steps[Result]:
    try:
        if tokenizer is None:
            raise Unsupported("this model's engine has no tokenizer")
        if call.method == "detokenize":
            return Result(call.call_id, text=tokenizer.decode(call.ids).decode(errors="replace"))
        if call.method == "pieces":
            pieces = yield from _pieces(tokenizer, call.ids)
            return Result(call.call_id, pieces=pieces)
        ids = yield from encoded(tokenizer, call.prompts, call.most, cut=call.cut)
        return Result(call.call_id, ids=ids)
    except GeneratorExit:
        raise
    except BaseException as error:  # a panic of native code is not an Exception, and would end the thread
        return Result(call.call_id, error=error_info(error))


def _pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> Steps[list[bytes]]:
    """Each id by itself, a few milliseconds' worth at a time."""
    found: list[bytes] = []
    for token_id in ids:
        if found and len(found) % _PIECES_IN_A_TURN == 0:
            yield
        found.append(tokenizer.decode((token_id,)))
    return found

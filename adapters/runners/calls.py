"""Calls to a tokenizer that lives in another thread or process, and the tasks that wait for the results."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

from corral.adapters.runners.frames import Result, TokenizerCall
from corral.core.error_translation import to_error
from corral.core.errors import ErrorInfo
from corral.core.requests.prompts import Prompt

__all__ = ("TokenizerCalls",)


class TokenizerCalls:
    """Belongs to one event loop. `begin` sends a call; `give_up` cancels it."""

    def __init__(self, *, begin: Callable[[TokenizerCall], object], give_up: Callable[[int], object]) -> None:
        self._begin = begin
        self._give_up = give_up
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Result]] = {}

    async def tokenize(self, prompts: Sequence[Prompt], *, most: int | None, cut: bool) -> list[tuple[int, ...]]:
        """As `RunningModel.tokenize`."""
        return (await self._result(TokenizerCall(next(self._ids), "tokenize", tuple(prompts), (), most, cut))).ids

    async def detokenize(self, ids: Sequence[int]) -> str:
        """As `RunningModel.detokenize`."""
        return (await self._result(TokenizerCall(next(self._ids), "detokenize", ids=tuple(ids)))).text

    async def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """As `RunningModel.pieces`."""
        return (await self._result(TokenizerCall(next(self._ids), "pieces", ids=tuple(ids)))).pieces

    def take(self, result: Result) -> None:
        """Deliver a result. Results of unknown calls are ignored."""
        future = self._waiting.get(result.call_id)
        if future is not None and not future.done():
            future.set_result(result)

    def fail(self, error: ErrorInfo) -> None:
        """End every pending call with this error."""
        for call_id in self._waiting:
            self.take(Result(call_id, error=error))

    async def _result(self, call: TokenizerCall) -> Result:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[call.call_id] = future
        try:
            self._begin(call)
            result = await future
        except asyncio.CancelledError:
            self._give_up(call.call_id)
            raise
        finally:
            del self._waiting[call.call_id]
        if result.error is not None:
            raise to_error(result.error)
        return result

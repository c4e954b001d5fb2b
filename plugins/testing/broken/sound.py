"""A model that keeps every promise, made so that a subclass can break one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import ClassVar

from msgspec.structs import replace

from corral.core.errors import Unsupported
from corral.core.ports.running import ModelInfo, RunningModel
from corral.core.requests.outputs import Output
from corral.core.requests.prompts import Prompt, TextPart
from corral.core.requests.requests import ChatRequest, CompletionRequest, EmbedRequest, Request, RerankRequest

__all__ = ("PARALLEL", "SoundModel")

PARALLEL = 2


class SoundModel:
    """A `RunningModel` of every task, over one that has all but chat: two requests at a time, others wait."""

    breaks: ClassVar[str | None] = None
    """The only test that fails with this model."""

    def __init__(self, inner: RunningModel) -> None:
        self._inner = inner
        self._places = asyncio.Semaphore(PARALLEL)
        self.present: list[Request] = []

    @property
    def info(self) -> ModelInfo:
        tasks = frozenset({"completion", "chat", "embedding", "rerank"})
        return replace(self._inner.info, tasks=tasks, parallel=PARALLEL)

    @property
    def alive(self) -> bool:
        return self._inner.alive

    async def run(self, request: Request) -> AsyncGenerator[Output, None]:
        self.check(request)
        self.present.append(request)
        try:
            async with self._places, aclosing(self.answer(request)) as outputs:
                async for output in outputs:
                    yield output
        finally:
            self.present = [other for other in self.present if other is not request]

    async def tokenize(
        self, prompts: Sequence[Prompt], *, most: int | None = None, cut: bool = False
    ) -> list[tuple[int, ...]]:
        return await self._inner.tokenize(prompts, most=most, cut=cut)

    async def detokenize(self, ids: Sequence[int]) -> str:
        return await self._inner.detokenize(ids)

    async def pieces(self, ids: Sequence[int]) -> list[bytes]:
        return await self._inner.pieces(ids)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def check(self, request: Request) -> None:
        """Raises `Unsupported` for a request of an unknown task."""
        if not isinstance(request, CompletionRequest | ChatRequest | EmbedRequest | RerankRequest):
            raise Unsupported(f"this model takes no {type(request).__name__}")

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        """The inner model's answer, when there is a place; a chat becomes a completion."""
        asked = _completion(request) if isinstance(request, ChatRequest) else request
        async with aclosing(self._inner.run(asked)) as outputs:
            async for output in outputs:
                yield output


def _completion(request: ChatRequest) -> CompletionRequest:
    return CompletionRequest(
        prompt=tuple(TextPart(text=message.content) for message in request.messages),
        sampling=request.sampling,
        context=request.context,
        constraint=request.constraint,
        logprobs=request.logprobs,
        return_token_ids=request.return_token_ids,
    )

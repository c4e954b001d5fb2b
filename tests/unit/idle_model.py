"""A loaded model for tests that never ask it anything."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from corral.core.ports.running import ModelInfo
from corral.core.requests.outputs import Output
from corral.core.requests.prompts import Prompt
from corral.core.requests.requests import Request

__all__ = ("IdleModel",)


class IdleModel:
    """A `RunningModel` with room for two requests, which only lives until it is closed."""

    def __init__(self) -> None:
        self.alive = True
        self.info = ModelInfo(tasks=frozenset({"completion"}), parallel=2)

    async def run(self, request: Request) -> AsyncGenerator[Output, None]:
        raise NotImplementedError
        yield

    async def tokenize(
        self, prompts: Sequence[Prompt], *, most: int | None = None, cut: bool = False
    ) -> list[tuple[int, ...]]:
        raise NotImplementedError

    async def detokenize(self, ids: Sequence[int]) -> str:
        raise NotImplementedError

    async def pieces(self, ids: Sequence[int]) -> list[bytes]:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.alive = False

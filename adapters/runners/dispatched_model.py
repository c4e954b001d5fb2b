"""What loaded models in a thread and in a child process have in common: their requests and their tokenizer calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from corral.adapters.runners.calls import TokenizerCalls
from corral.adapters.runners.dispatch import Dispatch
from corral.core.errors import EngineDied, Unsupported
from corral.core.ports.running import ModelInfo
from corral.core.requests.outputs import Output
from corral.core.requests.prompts import Prompt
from corral.core.requests.requests import Request

__all__ = ("DispatchedModel",)


class DispatchedModel:
    """A `RunningModel` but for `aclose`, which subclasses add."""

    def __init__(self, label: str, dispatch: Dispatch, calls: TokenizerCalls) -> None:
        self._label = label
        self._dispatch = dispatch
        self._calls = calls

    @property
    def info(self) -> ModelInfo:
        return self._dispatch.info

    @property
    def alive(self) -> bool:
        return self._dispatch.alive

    def run(self, request: Request) -> AsyncGenerator[Output, None]:
        return self._dispatch.run(request)

    async def tokenize(
        self, prompts: Sequence[Prompt], *, most: int | None = None, cut: bool = False
    ) -> list[tuple[int, ...]]:
        self._require_tokenizer()
        return await self._calls.tokenize(prompts, most=most, cut=cut)

    async def detokenize(self, ids: Sequence[int]) -> str:
        self._require_tokenizer()
        return await self._calls.detokenize(ids)

    async def pieces(self, ids: Sequence[int]) -> list[bytes]:
        self._require_tokenizer()
        return await self._calls.pieces(ids)

    def _require_tokenizer(self) -> None:
        if not self.alive:
            raise EngineDied(f"{self._label} is no longer loaded")
        if "tokenize" not in self.info.features:
            raise Unsupported(f"the engine of {self._label} does not tokenize")

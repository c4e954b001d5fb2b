"""What makes and compares weights of other types, as methods of `Corral`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from corral.api.library.asynchronous import AsyncCorral
from corral.core.conversion.tuning import TuneReport
from corral.core.models.model import StoredModel
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.sources import OnProgress
from corral.core.specs.comparisons import Comparison

__all__ = ("BlockingWeights",)

T = TypeVar("T")


class BlockingWeights(ABC):
    """A base of `Corral`."""

    @abstractmethod
    def call(self, function: Callable[[AsyncCorral], Awaitable[T]]) -> T: ...

    def quantize(
        self,
        model: str,
        type: str,
        name: str | None = None,
        *,
        requantize: bool = False,
        importance_matrix: str | os.PathLike[str] | None = None,
        on_progress: OnProgress | None = None,
    ) -> StoredModel:
        """See `AsyncCorral.quantize`. `on_progress` is called on other threads."""
        return self.call(
            lambda corral: corral.quantize(
                model,
                type,
                name=name,
                requantize=requantize,
                importance_matrix=importance_matrix,
                on_progress=on_progress,
            )
        )

    def compare(
        self,
        reference: str,
        candidate: str,
        *,
        text: str | os.PathLike[str] | None = None,
        speed: bool = True,
        on_progress: OnLoadProgress | None = None,
    ) -> Comparison:
        """See `AsyncCorral.compare`. `on_progress` is called on other threads."""
        return self.call(
            lambda corral: corral.compare(reference, candidate, text=text, speed=speed, on_progress=on_progress)
        )

    def tune(
        self,
        model: str,
        *,
        types: Sequence[str] = (),
        most_kl: float = 0.01,
        keep: bool = True,
        on_progress: OnLoadProgress | None = None,
    ) -> TuneReport:
        """See `AsyncCorral.tune`. `on_progress` is called on other threads."""
        return self.call(
            lambda corral: corral.tune(model, types=types, most_kl=most_kl, keep=keep, on_progress=on_progress)
        )

    def tuned(self, model: str) -> dict[str, StoredModel]:
        """See `AsyncCorral.tuned`."""
        return self.call(lambda corral: corral.tuned(model))

    def untune(self, model: str) -> bool:
        """See `AsyncCorral.untune`."""
        return self.call(lambda corral: corral.untune(model))

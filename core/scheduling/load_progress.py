"""How far a load has come: `LoadProgress`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from corral.core.values import Value

__all__ = ("LoadListener", "LoadProgress", "LoadStage")

LoadStage = Literal["converting", "loading"]


class LoadProgress(Value, frozen=True, kw_only=True):
    """The share of a stage that is done, 0 to 1. A model that must be converted goes through that stage first."""

    stage: LoadStage
    share: float


LoadListener = Callable[[LoadProgress], None]

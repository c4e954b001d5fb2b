"""The runner port: where a loaded model lives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from corral.core.ports.running import RunningModel

if TYPE_CHECKING:
    from corral.core.specs.engines import EngineSpec, LoadRequest

__all__ = ("OnLoadProgress", "Runner")

OnLoadProgress = Callable[[float], None]
"""Called with the completed share, 0 to 1."""


class Runner(Protocol):
    """Where a loaded model lives: a thread of this process, a child process, the event loop."""

    @property
    def name(self) -> str: ...

    async def load(self, spec: EngineSpec, request: LoadRequest, on_progress: OnLoadProgress) -> RunningModel:
        """Load the model and wait until it is ready. Cancelling the call stops the load and leaves nothing behind.

        `on_progress` is called in the event loop, although the engine reports from the thread that loads.

        Raises `EngineNotInstalled`, `InvalidModelFile`, `OutOfMemory`, `LoadFailed`, `EngineDied`, `EngineStalled`.
        """
        ...

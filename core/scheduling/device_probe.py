"""Which devices engines can compute on: found out in separate processes, because native code may crash."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence

from corral.core.errors import CorralError
from corral.core.ports.jobs import JobRunner
from corral.core.specs.engines import Device, EngineSpec

__all__ = ("DeviceProbe",)

_log = logging.getLogger(__name__)


class DeviceProbe:
    """Asks all engines for their devices at the same time. One that takes longer than `timeout_s` is stopped."""

    def __init__(self, *, engines: Sequence[EngineSpec], jobs: JobRunner, timeout_s: float = 20.0) -> None:
        self._functions = {spec.name: spec.devices for spec in engines if spec.devices is not None}
        self._jobs = jobs
        self._timeout_s = timeout_s

    async def devices(self, engines: Collection[str]) -> Mapping[str, tuple[Device, ...] | str]:
        """By engine name: its devices, or why they could not be found. Engines that list none are left out."""
        asked = {name: function for name, function in self._functions.items() if name in engines}
        found = await asyncio.gather(*(self._ask(function) for function in asked.values()))
        return dict(zip(asked, found, strict=True))

    async def _ask(self, function: str) -> tuple[Device, ...] | str:
        try:
            async with asyncio.timeout(self._timeout_s):
                return tuple(await self._jobs.run(function, None, list[Device], lambda share: None))
        except TimeoutError:
            return f"no answer within {self._timeout_s:g} s"
        except CorralError as error:
            return error.message

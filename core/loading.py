"""One load of a model: room for it first, then the runner, and a second try where memory was short after all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec

from corral.core.engines import LoadRequest, LocalFile
from corral.core.errors import LoadFailed, OutOfMemory
from corral.core.models import ModelMetadata, ModelRecord
from corral.core.placement import Placement, Resident
from corral.core.ports.inference import RunningModel

__all__ = ("ModelLoader",)


class ModelLoader:
    """Loads what the scheduler asks for. `timeout_s` is the longest a load may go without progress."""

    def __init__(
        self,
        *,
        placement: Placement,
        local_files: Callable[[ModelRecord], tuple[LocalFile, ...]],
        timeout_s: float,
    ) -> None:
        self._placement = placement
        self._local_files = local_files
        self._timeout_s = timeout_s

    async def load(self, resident: Resident, metadata: ModelMetadata | None) -> None:
        """Returns once ``resident.model`` answers. Raises `OutOfMemory`, and what `Runner.load` raises."""
        resident.estimate = resident.spec.estimate(resident.record, metadata, resident.options)
        await self._placement.make_room(resident)
        try:
            resident.model = await self._run(resident)
        except OutOfMemory:
            # The estimate was too small. Everything idle goes, then there is one more try, as in Ollama.
            if not await self._placement.free_idle():
                raise
            resident.model = await self._run(resident)

    async def _run(self, resident: Resident) -> RunningModel:
        name, timeout_s = resident.record.name.short, self._timeout_s
        options = {} if resident.options is None else msgspec.to_builtins(resident.options)
        record = resident.record
        request = LoadRequest(
            model=name,
            files=self._local_files(record),
            load_options=options,
            remote_host=record.remote_host,
            remote_model=record.remote_model,
            remote_replicas=record.remote_replicas,
            remote_api=record.remote_api,
        )
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s) as deadline:

                def on_progress(share: float) -> None:
                    with suppress(RuntimeError):  # a late report of a load that is over
                        deadline.reschedule(loop.time() + timeout_s)
                    for listener in list(resident.listeners):
                        listener(share)

                return await resident.runner.load(resident.spec, request, on_progress)
        except TimeoutError as error:
            raise LoadFailed(
                f"loading {name} made no progress for {timeout_s:g} s", "raise load_timeout_s if the disk is slow"
            ) from error

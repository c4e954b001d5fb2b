"""One model in memory or on its way there: `Resident`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from corral.core.models.model import FileRole, StoredModel
from corral.core.ports.runners import Runner
from corral.core.ports.running import RunningModel
from corral.core.specs.engines import EngineSpec
from corral.core.values import Value

__all__ = ("LoadListener", "LoadProgress", "Resident", "files_key")

_KEY_ROLES: tuple[FileRole, ...] = ("weights", "projector", "adapter")


def files_key(record: StoredModel) -> tuple[str, ...]:
    """What makes two models the same in memory. A model without weights is its own manifest."""
    files = (file.digest for role in _KEY_ROLES for file in record.files_of(role))
    return tuple(files) or (record.digest,)


class LoadProgress(Value, frozen=True, kw_only=True):
    """How far a load has come: the share done of its stage, 0 to 1. A model that must be converted is so first."""

    stage: Literal["converting", "loading"]
    share: float


LoadListener = Callable[[LoadProgress], None]


class Resident:
    """A model in memory or on its way there. `active` counts leases, those that wait for the load included.

    `converter`: the engine takes that one's result in the model's place. `placed`: its memory is spoken for.
    `draining`: somebody unloads it, so it goes after its last lease. `giving_way`: so does it while a load waits for
    its room. Either way it takes no new leases.
    """

    def __init__(
        self, record: StoredModel, spec: EngineSpec, runner: Runner, options: Any, *, converter: str | None = None
    ) -> None:
        self.files = files_key(record)
        self.record = record
        self.spec = spec
        self.runner = runner
        self.options = options
        self.converter = converter
        self.names = {record.name.key}
        self.estimate: Mapping[str, int] = {}
        self.placed = False
        self.model: RunningModel | None = None
        self.loading: asyncio.Task[None] | None = None
        self.listeners: list[LoadListener] = []
        self.active = 0
        self.keep_alive_s: float | None = None
        self.expires_at = math.inf
        self.timer: asyncio.TimerHandle | None = None
        self.draining = False
        self.giving_way = False

    @property
    def leaving(self) -> bool:
        return self.draining or self.giving_way

    @property
    def waiting(self) -> int:
        """Leases that nobody works on now."""
        return self.active if self.model is None else max(0, self.active - self.model.info.parallel)

    def same_weights(self, other: Resident) -> bool:
        """The same model, with whatever options: one of them replaces the other."""
        return self.spec is other.spec and self.files == other.files

    def expires(self, now_s: float) -> float:
        """When its time is up if nobody asks for it from now on; infinite where it stays for ever."""
        return math.inf if self.keep_alive_s is None else now_s + self.keep_alive_s

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    @property
    def eviction_order(self) -> tuple[bool, float, str]:
        """Idle before busy, then the shortest keep-alive."""
        return (self.active > 0, math.inf if self.keep_alive_s is None else self.keep_alive_s, self.record.name.key)

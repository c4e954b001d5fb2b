"""What the model scheduler is set to, lends out, and lists."""

from __future__ import annotations

import msgspec

from corral.core.models import ModelRecord
from corral.core.ports.inference import ModelInfo, RunningModel
from corral.core.values import Value

__all__ = ("Lease", "LoadedModel", "SchedulerSettings")


class SchedulerSettings(Value, frozen=True, kw_only=True):
    """How models come and go.

    `keep_alive_s`: how long a model stays after its last request, where no request said otherwise; None for ever.
    `max_loaded` 0 means three. `max_queue` requests may wait, for a load or for a free stream; the next is turned
    away. `load_timeout_s` is the longest a load may go without progress. `engine` is the one to use for every model.
    `engine_order` are engines that come before others which suit a model equally well.
    """

    keep_alive_s: float | None = 300.0
    max_loaded: int = 0
    max_queue: int = 512
    load_timeout_s: float = 300.0
    engine: str | None = None
    engine_order: tuple[str, ...] = ()


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded model, for as long as its context lasts. `load_ns` is how long the caller waited for it.

    `ignored_options` are the load options asked for that its engine does not have.
    """

    model: RunningModel
    record: ModelRecord
    load_ns: int
    engine: str
    ignored_options: tuple[str, ...] = ()


class LoadedModel(Value, frozen=True, kw_only=True):
    """A model in memory. `expires_at` is seconds since 1970, None for ever; `active` counts its leases."""

    record: ModelRecord
    engine: str
    runner: str
    info: ModelInfo
    expires_at: float | None
    active: int

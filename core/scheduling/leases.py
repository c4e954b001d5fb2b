"""What the model scheduler is set to, lends out, and lists."""

from __future__ import annotations

import msgspec

from corral.core.models.model import StoredModel
from corral.core.ports.running import ModelInfo, RunningModel
from corral.core.values import Value

__all__ = ("Lease", "LoadedModel")


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded model, for as long as its context lasts. `load_ns` is how long the caller waited for it.

    `ignored_options` are the load options asked for that its engine does not have.
    """

    model: RunningModel
    record: StoredModel
    load_ns: int
    engine: str
    ignored_options: tuple[str, ...] = ()


class LoadedModel(Value, frozen=True, kw_only=True):
    """A model in memory. `expires_at` is seconds since 1970, None for ever; `active` counts its leases."""

    record: StoredModel
    engine: str
    runner: str
    info: ModelInfo
    expires_at: float | None
    active: int

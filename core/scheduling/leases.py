"""What the model scheduler lends and lists: `Lease` and `LoadedModel`."""

from __future__ import annotations

import msgspec

from corral.core.models.model import StoredModel
from corral.core.ports.running import ModelInfo, RunningModel
from corral.core.values import Value

__all__ = ("Lease", "LoadedModel")


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded model, for as long as its context lasts. `load_ns` is how long the caller waited for it.

    `ignored_options` are requested load options that its engine does not have. With `vocabulary_only`, it has no task
    and can only tokenize.
    """

    model: RunningModel
    record: StoredModel
    load_ns: int
    engine: str
    ignored_options: tuple[str, ...] = ()
    vocabulary_only: bool = False


class LoadedModel(Value, frozen=True, kw_only=True):
    """A model in memory. `expires_at` is in seconds since 1970, None means never; `active` is the number of leases."""

    record: StoredModel
    engine: str
    runner: str
    info: ModelInfo
    expires_at: float | None
    active: int

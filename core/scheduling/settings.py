"""The settings of the model scheduler."""

from __future__ import annotations

from corral.core.values import Value

__all__ = ("SchedulerSettings",)


class SchedulerSettings(Value, frozen=True, kw_only=True):
    """When models are loaded and unloaded.

    `keep_alive_s` is how long a model stays after its last request, unless a request says otherwise; None is forever.
    `max_loaded` 0 means three. At most `max_queue` requests wait for a load or a free stream; further ones are refused.
    `load_timeout_s` is the longest time without progress of a load. `engine` is used for all models.
    """

    keep_alive_s: float | None = 300.0
    max_loaded: int = 0
    max_queue: int = 512
    load_timeout_s: float = 300.0
    engine: str | None = None

"""What the model scheduler can be set to."""

from __future__ import annotations

from corral.core.values import Value

__all__ = ("SchedulerSettings",)


class SchedulerSettings(Value, frozen=True, kw_only=True):
    """How models come and go.

    `keep_alive_s`: how long a model stays after its last request, where no request said otherwise; None for ever.
    `max_loaded` 0 means three. `max_queue` requests may wait, for a load or for a free stream; the next is turned
    away. `load_timeout_s` is the longest a load may go without progress. `engine` is the one to use for every model.
    """

    keep_alive_s: float | None = 300.0
    max_loaded: int = 0
    max_queue: int = 512
    load_timeout_s: float = 300.0
    engine: str | None = None

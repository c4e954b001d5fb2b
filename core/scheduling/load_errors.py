"""How a load may fail beside what a runner raises: it stalled, or its process died."""

from __future__ import annotations

from corral.core.errors import EngineDied, LoadFailed

__all__ = ("LoadCrashed", "LoadStalled")


class LoadStalled(LoadFailed):
    """A load made no progress for too long and was given up."""

    code = "load_stalled"


class LoadCrashed(EngineDied):
    """The process ended before the model was ready."""

    code = "load_crashed"

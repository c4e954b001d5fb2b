"""The settings of the process runner, apart from it: reading them imports nothing else."""

from __future__ import annotations

from corral.core.values import Value

__all__ = ("ProcessSettings",)


class ProcessSettings(Value, frozen=True, kw_only=True):
    """How long a child may keep quiet.

    `heartbeat_timeout_s` without a sign of life, once loaded, or one step of `step_timeout_s`: it counts as stalled and
    is killed. On unloading it has `close_grace_s` to end by itself, and as long again after SIGTERM.
    """

    heartbeat_timeout_s: float = 10.0
    step_timeout_s: float = 600.0
    close_grace_s: float = 5.0

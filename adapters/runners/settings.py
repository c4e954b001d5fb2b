"""The settings of the process runner, in their own module so that reading them imports nothing else."""

from __future__ import annotations

from corral.core.values import Value

__all__ = ("ProcessSettings",)


class ProcessSettings(Value, frozen=True, kw_only=True):
    """How long a child may be silent.

    Once loaded, a child that sends nothing for `heartbeat_timeout_s`, or spends `step_timeout_s` in one step, counts as
    stalled and is killed. On unloading, it has `close_grace_s` to end by itself, and the same time again after SIGTERM.
    """

    heartbeat_timeout_s: float = 10.0
    step_timeout_s: float = 600.0
    close_grace_s: float = 5.0

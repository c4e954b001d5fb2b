"""The command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ("main",)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process: 0 for success, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    try:
        from corral.api.cli import command_group  # a Ctrl-C while this is imported must not show a traceback
    except KeyboardInterrupt:
        sys.exit(130)
    command_group.main(arguments)

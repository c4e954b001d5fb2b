"""Processes whose parent was killed."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ("runs",)


def runs(process_id: int) -> bool:
    """Whether a process still runs. One that nobody waits for may stay a zombie until init looks, seconds later."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # a system without such files
        return True

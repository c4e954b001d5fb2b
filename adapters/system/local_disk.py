"""Finds out whether a path is on a local disk, where a `stat` takes microseconds and never waits for a network."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

__all__ = ("on_local_disk",)

_MOUNTS = Path("/proc/self/mountinfo")
_LOCAL = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})


def on_local_disk(path: Path, mounts: Path = _MOUNTS) -> bool:
    """False if that is not certain: for other kinds of file systems, and on systems without Linux's list of mounts.

    Each device is looked up once in a process.
    """
    try:
        return _is_local(os.stat(path).st_dev, mounts)
    except OSError:
        return False


@lru_cache(64)
def _is_local(device: int, mounts: Path) -> bool:
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text(errors="replace").splitlines():
        # ID, parent, device, root, mount point, options, …, "-", type of file system, …
        mount, _, system = line.partition(" - ")
        fields = mount.split()
        if len(fields) > 2 and fields[2] == wanted:
            return system.partition(" ")[0] in _LOCAL
    return False

"""Measures how much memory a model may still take on this machine, by device, without native packages."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ("cgroup_rest", "free_memory")

_UNKNOWN = sys.maxsize
_VM_STAT_ROWS = ("free", "inactive", "speculative", "purgeable")


def free_memory() -> dict[str, int]:
    """Bytes free for ``cpu``: what the system can give, or the rest of the control group if that is less.

    Empty if the system does not say; then nothing is refused for lack of memory.
    """
    if sys.platform == "linux":
        free = min(
            _linux_available(Path("/proc/meminfo")), cgroup_rest(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
        )
    elif sys.platform == "darwin":
        free = _mac_available()
    elif sys.platform == "win32":
        free = _windows_available()
    else:
        free = _UNKNOWN
    return {} if free == _UNKNOWN else {"cpu": free}


def cgroup_rest(membership: Path, root: Path) -> int:
    """Bytes until this process's control group, or one above it, reaches its limit; a huge number without a limit.

    Version 1 and 2. Page cache that can be dropped counts as free, as in ``MemAvailable``.
    """
    return min((max(0, rest) for rest in _rests(membership, root)), default=_UNKNOWN)


def _rests(membership: Path, root: Path) -> Iterator[int]:
    for line in filter(None, _read(membership).splitlines()):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # In a container the path may be the host's: then only the mount's own files are there.
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            limit, usage = _read(folder / names[0]).strip(), _read(folder / names[1]).strip()
            if limit.isdigit() and usage.isdigit():
                cache = re.search(rf"^{names[2]} (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
                yield int(limit) - int(usage) + (int(cache[1]) if cache else 0)
            if folder == mount:
                break


def _linux_available(meminfo: Path) -> int:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(meminfo), re.MULTILINE)
    return int(found[1]) * 1024 if found else _UNKNOWN


def _mac_available() -> int:
    try:
        text = subprocess.run(["/usr/bin/vm_stat"], capture_output=True, text=True, check=True, timeout=5).stdout
    except (OSError, subprocess.SubprocessError):
        return _UNKNOWN
    page = re.search(r"page size of (\d+) bytes", text)
    pages = [
        int(count)
        for name, count in re.findall(r"^Pages (\w+):\s+(\d+)\.", text, re.MULTILINE)
        if name in _VM_STAT_ROWS
    ]
    return int(page[1]) * sum(pages) if page and pages else _UNKNOWN


def _windows_available() -> int:
    if sys.platform != "win32":
        return _UNKNOWN
    import ctypes

    class MemoryStatus(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load_percent", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "page_total", "page_free")),
            *((name, ctypes.c_ulonglong) for name in ("virtual_total", "virtual_free", "virtual_extended")),
        )

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    return int(status.free) if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else _UNKNOWN


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

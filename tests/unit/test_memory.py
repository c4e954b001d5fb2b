"""Free memory, and control groups of both versions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from corral.adapters.system.memory import cgroup_rest, free_memory


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_this_machine() -> None:
    """Some memory is free, or the result is empty."""
    assert all(size_bytes > 0 for size_bytes in free_memory().values())


def test_version_2(tmp_path: Path) -> None:
    """The tightest limit on the way up counts, with page cache that can be dropped as free."""
    write(tmp_path, cgroup="0::/outer/inner")
    write(tmp_path / "fs/outer", memory__max=1000, memory__current=700, memory__stat="anon 600\ninactive_file 50")
    write(tmp_path / "fs/outer/inner", memory__max="max", memory__current=700, memory__stat="inactive_file 50")
    assert cgroup_rest(tmp_path / "cgroup", tmp_path / "fs") == 350


def test_version_1(tmp_path: Path) -> None:
    """The memory controller's own hierarchy is read, at its root if the path is from another namespace."""
    write(tmp_path, cgroup="5:cpu:/x\n4:memory:/docker/gone")
    write(
        tmp_path / "fs/memory",
        memory__limit_in_bytes=500,
        memory__usage_in_bytes=450,
        memory__stat="inactive_file 1\ntotal_inactive_file 10",
    )
    assert cgroup_rest(tmp_path / "cgroup", tmp_path / "fs") == 60


def test_over_the_limit(tmp_path: Path) -> None:
    """A group over its limit has 0 bytes left, not a negative number."""
    write(tmp_path, cgroup="0::/")
    write(tmp_path / "fs", memory__max=100, memory__current=170)
    assert cgroup_rest(tmp_path / "cgroup", tmp_path / "fs") == 0


@pytest.mark.parametrize("membership", ["", "0::/nowhere", "3:cpu:/"])
def test_without_a_limit(tmp_path: Path, membership: str) -> None:
    """Without a limit, available memory is unlimited."""
    write(tmp_path, cgroup=membership)
    assert cgroup_rest(tmp_path / ("cgroup" if membership else "missing"), tmp_path / "fs") == sys.maxsize

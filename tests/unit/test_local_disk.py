"""Which paths may be looked at without a thread: those on disks of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from corral.adapters.system.local_disk import on_local_disk


def mounts(tmp_path: Path, system: str) -> Path:
    """A list of mounts with `tmp_path` on a file system of this type."""
    device = tmp_path.stat().st_dev
    found = tmp_path / "mountinfo"
    found.write_text(
        f"22 1 7:1 / /other rw shared:1 - nfs server:/ rw\n"
        f"25 1 {os.major(device)}:{os.minor(device)} / / rw,relatime shared:2 master:1 - {system} /dev/x rw\n"
    )
    return found


@pytest.mark.parametrize(("system", "local"), [("ext4", True), ("overlay", True), ("nfs4", False), ("fuse.x", False)])
def test_the_type_of_the_file_system_decides(tmp_path: Path, system: str, local: bool) -> None:
    """Only types that are known to be local count."""
    assert on_local_disk(tmp_path, mounts(tmp_path, system)) is local


def test_what_is_not_certain(tmp_path: Path) -> None:
    """A path that does not exist, a device that is not listed, and a system without the list are not local."""
    listed = mounts(tmp_path, "ext4")
    assert not on_local_disk(tmp_path / "nothing", listed)
    (tmp_path / "empty").write_text("")
    assert not on_local_disk(tmp_path, tmp_path / "empty")
    assert not on_local_disk(tmp_path, tmp_path / "absent")

"""How many processors this process may use, how busy they are, and how its OpenMP threads wait."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from corral.adapters.runners.spawn import start_child
from corral.adapters.system.openmp import short_waits, wait_settings
from corral.adapters.system.processors import IdleProcessors, available_cpus, quota_cpus, runnable_threads


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/pod/box\n", {"pod/cpu.max": "150000 100000\n", "pod/box/cpu.max": "max 100000\n"}, 1.5),
        ("0::/pod/box\n", {"pod/cpu.max": "400000 100000\n", "pod/box/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("3:cpu,cpuacct:/box\n", {"cpu/box/cpu.cfs_quota_us": "300000", "cpu/box/cpu.cfs_period_us": "100000"}, 3.0),
        ("3:cpu:/box\n", {"cpu/box/cpu.cfs_quota_us": "-1", "cpu/box/cpu.cfs_period_us": "100000"}, None),
        ("3:memory:/box\n0::/\n", {}, None),
        ("", {}, None),
    ],
)
def test_quotas(tmp_path: Path, membership: str, files: dict[str, str], quota: float | None) -> None:
    """The smallest quota of the control group and those above it counts, in both versions of control groups."""
    for name, text in files.items():
        write(tmp_path / "groups" / name, text)
    assert quota_cpus(write(tmp_path / "cgroup", membership), tmp_path / "groups") == quota


def test_available_cpus_are_at_least_one() -> None:
    """This process has a processor, and not more than the machine."""
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)


def test_runnable_threads(tmp_path: Path) -> None:
    """The fourth field of ``/proc/loadavg``; None if there is no such file or it says something else."""
    assert runnable_threads(write(tmp_path / "loadavg", "0.1 0.2 0.3 7/812 4711\n")) == 7
    assert runnable_threads(write(tmp_path / "other", "?\n")) is None
    assert runnable_threads(tmp_path / "missing") is None


def test_idle_processors(tmp_path: Path) -> None:
    """Idle and low-priority time since the last call, in processors; calls in quick succession agree."""
    now = 0.0
    mine = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    hertz = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100

    def stat(idle_s: float) -> Path:
        half = int(idle_s * hertz / 2)
        rows = ("cpu 1 2 3 999999 5", f"cpu{mine} 1 {half} 9 {half} 0 0", "cpu99999 0 0 0 777 0")
        return write(tmp_path / "stat", "\n".join(rows))

    idle = IdleProcessors(lambda: now, stat(10.0))
    assert idle() is None
    now = 2.0
    stat(11.0)
    assert idle() == pytest.approx(0.5)
    now = 2.05
    stat(50.0)
    assert idle() == pytest.approx(0.5)
    (tmp_path / "stat").unlink()
    now = 3.0
    assert idle() is None


def test_settings_of_the_user_are_kept() -> None:
    """A short wait is set unless the user has said how threads wait, and is gone from this process afterwards."""
    assert int(wait_settings({})["GOMP_SPINCOUNT"]) > 0
    assert wait_settings({"GOMP_SPINCOUNT": "7"}) == {}
    assert wait_settings({"OMP_WAIT_POLICY": "active"}) == {}


def test_short_waits_are_for_libraries_loaded_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is there inside, and this process's environment is the same afterwards."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with short_waits():
        assert os.environ["GOMP_SPINCOUNT"] == wait_settings(before)["GOMP_SPINCOUNT"]
    assert dict(os.environ) == before
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    with short_waits():
        assert os.environ["GOMP_SPINCOUNT"] == "7"
    assert os.environ["GOMP_SPINCOUNT"] == "7"


@pytest.mark.parametrize("own", [None, "7"])
def test_the_environment_of_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None) -> None:
    """Child processes get the short wait, or what the user has set."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if own is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
    said = tmp_path / "said"
    write(tmp_path / "says_waits.py", f"import os; open({str(said)!r}, 'w').write(os.environ['GOMP_SPINCOUNT'])")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    async def run() -> int:
        child = await start_child("says_waits", "test", asyncio.Protocol())
        return await asyncio.wait_for(asyncio.shield(child.exited), 60)

    assert asyncio.run(run()) == 0
    assert said.read_text() == (own or wait_settings({})["GOMP_SPINCOUNT"])

"""Conversions of checkpoints that are killed, or called off, at any moment: nothing of them is left in the store.

``CORRAL_KILLS=N`` kills N times, of which some quantize as well.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.core.models.names import parse_name
from corral.core.ports.sources import FetchProgress
from corral.plugins.assembly import assemble, load_plugins, read_layers
from tests.checkpoints.tiny import write_tiny_checkpoint
from tests.unit.store_checks import check_store, collect_all

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks of POSIX")

KILLS = int(os.environ.get("CORRAL_KILLS", "3"))


class Importer:
    """The process of `conversion_worker.py`."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._run = {"folder": str(folder), "root": str(root)}
        script = Path(__file__).with_name("conversion_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        assert self._from.readline() == "ready\n"

    def run(self, name: str, *, kill_after_s: float | None = None, quantize: str = "") -> tuple[int, float]:
        """The exit status, and how long it took in seconds."""
        how = {"name": name, "kill_after_s": kill_after_s, "quantize": quantize}
        self._to.write(json.dumps(self._run | how) + "\n")
        self._to.flush()
        status, took_s = json.loads(self._from.readline())
        return status, took_s

    def close(self) -> None:
        self._to.close()
        self._process.wait(60)
        self._from.close()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "checkpoint", width=256, layers=4, files=2)


@pytest.fixture
def importer(checkpoint: Path, tmp_path: Path) -> Iterator[Importer]:
    made = Importer(checkpoint, tmp_path / "store")
    yield made
    made.close()


def test_a_killed_conversion_leaves_nothing(importer: Importer, tmp_path: Path) -> None:
    """Whenever the process is killed, all models are whole, and in the end `gc` leaves only what they need."""
    root = tmp_path / "store"
    status, whole_s = importer.run("keep")
    assert status == 0
    kinds = ("", "q8_0") if KILLS >= 10 else ("",)
    killed = 0
    for number in range(KILLS):
        after_s = random.Random(number).random() * whole_s
        status, _ = importer.run(f"m{number}", kill_after_s=after_s, quantize=kinds[number % len(kinds)])
        killed += status == -signal.SIGALRM
        assert status in (0, -signal.SIGALRM)
        names = asyncio.run(check_store(root))
        assert "keep:latest" in names
        assert (f"m{number}:latest" in names) or status != 0
    assert killed
    assert importer.run("last")[0] == 0
    asyncio.run(collect_all(root))
    assert {"keep:latest", "last:latest"} <= set(asyncio.run(check_store(root)))


@pytest.mark.parametrize("status", ["converting model", "verifying conversion", "writing manifest"])
def test_a_conversion_that_is_called_off_leaves_nothing(checkpoint: Path, tmp_path: Path, status: str) -> None:
    """Cancelled at any stage, it leaves neither files nor blobs, and the process that converts has ended."""
    root = tmp_path / "store"

    async def work() -> None:
        layers = read_layers("", environment={}, flags={"store": str(root)})
        assembly = await assemble(layers, manager=load_plugins(layers))
        reached = asyncio.Event()

        def report(progress: FetchProgress) -> None:
            if progress.status == status and (progress.completed_bytes or progress.total_bytes is None):
                reached.set()

        try:
            catalog = assembly.runtime.catalog
            task = asyncio.create_task(catalog.import_file(checkpoint, parse_name("m"), report))
            await reached.wait()
            task.cancel()
            await asyncio.wait([task])
            if task.cancelled():
                assert await catalog.list() == []
                left = [path for path in root.rglob("*") if path.is_file() and path.stat().st_size]
                assert [path for path in left if path.parent.name != "metadata"] == []
        finally:
            await assembly.aclose()

    asyncio.run(work())
    asyncio.run(collect_all(root))

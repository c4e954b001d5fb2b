"""A store whose processes are killed, or whose disk fills up, at any moment: consistent, nothing lost, nothing leaked.

``CORRAL_KILLS=N`` kills N times at every place, and N times at random moments.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.core.models.names import parse_name
from corral.plugins.testing.gguf import SMALL_MODEL, TensorEntry, gguf_bytes
from tests.unit.store_checks import check_store, collect_all
from tests.unit.store_worker import catalog_at

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks of POSIX")

KILLS = int(os.environ.get("CORRAL_KILLS", "4"))
_PLACES = 700  # uses of files that a run has at least
_MIB = 1024 * 1024


class Workers:
    """The process of `store_worker.py`, and the store that its children work on."""

    def __init__(self, folder: Path, root: Path | None = None, kind: str = "filesystem") -> None:
        self.root = root or folder / "store"
        self.kind = kind
        self.log = folder / "log"
        files = []
        for number in range(3):
            file = folder / f"{number}.gguf"
            data = random.Random(number).randbytes(2 * _MIB + 128)
            tensor = TensorEntry("token_embd.weight", (len(data) // 4,), 0, len(data), data)
            file.write_bytes(gguf_bytes({**SMALL_MODEL, "general.name": f"model {number}"}, [tensor]))
            files.append(file)
        asyncio.run(catalog_at(self.root, kind).import_file(files[2], parse_name("keep")))
        script = Path(__file__).with_name("store_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._send({"files": [str(file) for file in files], "scratch": str(folder / "scratch")})
        assert self._from.readline() == "ready\n"

    def run(
        self,
        seed: int,
        *,
        kill_at: int | None = None,
        kill_after_s: float | None = None,
        fail_from: int | None = None,
        umask: int | None = None,
        root: Path | None = None,
    ) -> int:
        """The exit status of a child that works with this seed."""
        self.log.unlink(missing_ok=True)
        run: dict[str, Any] = {
            "root": str(root or self.root),
            "log": str(self.log),
            "seed": seed,
            "umask": umask,
            "kind": self.kind,
        }
        self._send(run | {"kill_at": kill_at, "kill_after_s": kill_after_s, "fail_from": fail_from})
        return int(self._from.readline())

    def check(self, before: dict[str, str]) -> dict[str, str]:
        """The models after a run; those that are not as the log says are those of an unfinished step."""
        after = self.models()
        expected, unsure = dict(before), set[str]()
        pending = ""
        for line in self.log.read_text().splitlines() if self.log.exists() else []:
            word, *rest = line.split(" ")
            if word == "begin":
                pending = f"{rest[1]}:latest"
            elif word == "failed":
                unsure.add(pending)  # an error after the manifest was put is allowed to leave it
                pending = ""
            else:
                name, pending = pending, ""
                unsure.discard(name)
                if word == "put":
                    expected[name] = rest[1]
                else:
                    expected.pop(name, None)
        for name in expected.keys() | after.keys():
            if name not in unsure and name != pending:
                assert after.get(name) == expected.get(name), name
        assert "keep:latest" in after
        return after

    def models(self) -> dict[str, str]:
        """The digests of all models, which are whole."""
        return asyncio.run(check_store(self.root, self.kind))

    def collect(self) -> int:
        """Deletes all that no model needs, so that nothing else is left; returns how much that was."""
        return len(asyncio.run(collect_all(self.root, self.kind)).removed)

    def close(self) -> None:
        self._to.close()
        self._process.wait(60)
        self._from.close()

    def _send(self, value: dict[str, Any]) -> None:
        self._to.write(json.dumps(value) + "\n")
        self._to.flush()


@pytest.fixture(scope="module", params=["filesystem", "oci-layout"] if KILLS >= 50 else ["filesystem"])
def workers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    made = Workers(tmp_path_factory.mktemp("killed"), kind=request.param)
    yield made
    made.close()


def test_a_process_killed_at_any_use_of_a_file_loses_nothing(workers: Workers) -> None:
    """After each kill, all models are whole and as the log says; in the end `gc` removes all that was left."""
    models = workers.models()
    killed = 0
    for number in range(KILLS):
        killed += workers.run(number, kill_at=random.Random(number).randrange(1, _PLACES)) == -signal.SIGKILL
        models = workers.check(models)
    assert killed
    assert workers.collect() or KILLS < 50  # many kills leave something
    assert workers.models() == models


@pytest.mark.skipif(KILLS < 50, reason="the long form only")
def test_a_process_killed_at_a_random_moment_loses_nothing(workers: Workers) -> None:
    """The same, but between two uses of files as well: in the middle of writing and hashing."""
    models = workers.models()
    killed = 0
    for number in range(KILLS):
        after_s = random.Random(number).random() * 0.4
        killed += workers.run(1000 + number, kill_after_s=after_s) == -signal.SIGALRM
        models = workers.check(models)
    assert killed
    workers.collect()
    assert workers.models() == models


def test_a_disk_that_is_full_for_a_while_loses_nothing(workers: Workers) -> None:
    """Some steps fail with an error of Corral, and the process goes on; afterwards nothing is left of them."""
    models = workers.models()
    for number in range(max(2, KILLS // 2)):
        assert workers.run(2000 + number, fail_from=random.Random(number).randrange(1, _PLACES)) == 0
        models = workers.check(models)
    workers.collect()
    assert workers.models() == models


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for three of the four models."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=7m", "none", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(KILLS < 50, reason="the long form only")
def test_a_small_disk_that_fills_up_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    """The same on a file system that is really full, with kills in between."""
    workers = Workers(tmp_path, small_disk / "store")
    try:
        models = workers.models()
        failures = 0
        for number in range(KILLS):
            workers.run(3000 + number, kill_at=random.Random(number).randrange(1, 4 * _PLACES))
            failures += workers.log.read_text().count("failed OutOfSpace")
            models = workers.check(models)
        assert failures
        workers.collect()
        assert workers.models() == models
    finally:
        workers.close()


@pytest.mark.parametrize(
    ("umask", "folder_mode", "file_mode"), [(0, 0o755, 0o644), (0o002, 0o755, 0o644), (0o077, 0o700, 0o600)]
)
def test_everybody_may_read_a_store_unless_the_umask_forbids_it(
    workers: Workers, tmp_path: Path, umask: int, folder_mode: int, file_mode: int
) -> None:
    """Folders have mode 0755 and files 0644, less the umask; an imported file that is linked keeps its own."""
    root = tmp_path / "new" / "store"
    assert workers.run(7, umask=umask, root=root) == 0
    modes: dict[str, set[int]] = {"folders": {stat.S_IMODE((tmp_path / "new").stat().st_mode)}, "files": set()}
    for path in root.rglob("*"):
        if path.is_dir():
            modes["folders"].add(stat.S_IMODE(path.stat().st_mode))
        elif path.stat().st_nlink == 1:
            modes["files"].add(stat.S_IMODE(path.stat().st_mode))
    assert modes == {"folders": {folder_mode}, "files": {file_mode}}

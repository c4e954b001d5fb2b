"""`corral convert` interrupted at a terminal: the job ends and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corral.plugins.testing.gguf import gguf_bytes

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")

_STAMPS = """
from corral.plugins import hookimpl
from corral.plugins.testing.conversion import CONVERTER, ENGINE

CORRAL_PLUGIN_API = (1, 0)

@hookimpl
def corral_register_engines(register):
    register(ENGINE)

@hookimpl
def corral_register_converters(register):
    register(CONVERTER)
"""


def files_below(root: Path) -> set[str]:
    """What a store holds, except its own bookkeeping files, which may change."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and ".corral" not in path.parts}


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path) -> None:
    """The status is 130, and no process, blob, name or scratch folder is left."""
    site, store, file, pid = (tmp_path / name for name in ("site", "store", "small.gguf", "pid"))
    (site / "corral_stamps-1.0.dist-info").mkdir(parents=True)
    (site / "corral_stamps.py").write_text(_STAMPS)
    (site / "corral_stamps-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: corral-stamps\n")
    (site / "corral_stamps-1.0.dist-info" / "entry_points.txt").write_text("[corral]\nstamps = corral_stamps\n")
    file.write_bytes(gguf_bytes())
    environment = os.environ | {"PYTHONPATH": str(site), "CORRAL_MODELS": str(store), "CORRAL_CONFIG": ""}
    corral = [sys.executable, "-m", "corral.api.cli"]
    subprocess.run([*corral, "import", str(file), "--name", "small"], env=environment, check=True, capture_output=True)
    before = files_below(store)
    parameters = ["-p", f"pid_file={pid}", "-p", f"wait_for={tmp_path / 'never'}"]
    command = [*corral, "convert", "small", "--to", "stamp", *parameters]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not pid.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, b"", b"")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert files_below(store) == before
    assert list((store / ".corral" / "work").iterdir()) == []

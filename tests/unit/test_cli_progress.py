"""Progress bars at a terminal of eighty columns, and in a pipe."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")

SCRIPT = """
from corral.api.cli.progress import convert_progress, load_progress, spinner, transfer_progress
from corral.core.scheduling.load_progress import LoadProgress
from corral.core.ports.sources import FetchProgress

with transfer_progress() as show:
    show(FetchProgress(status="Downloading a_model_with_a_long_name-0.1.2-py3-none-any.whl (92.9 MB)"))
    size = {"completed_bytes": 43_000_000, "total_bytes": 98_400_000}
    show(FetchProgress(status="storing SmolLM2-135M-Instruct.Q4_1.gguf", **size))
with load_progress("smollm2-135m-instruct:q4_1") as loading:
    loading(LoadProgress(stage="converting", share=0.5))
with convert_progress("smollm2-135m-instruct:q4_1") as converting:
    converting(0.5)
with spinner():
    pass
print("done")
"""


def environment() -> dict[str, str]:
    return os.environ | {"COLUMNS": "80", "LINES": "24", "TERM": "xterm", "NO_COLOR": "1"}


def test_figures_are_whole_beside_a_long_status() -> None:
    """Bytes and percentage fit into eighty columns, whatever the text before them."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stderr=theirs, stdout=subprocess.PIPE, env=environment()
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # how Linux says that nobody writes any more
            pass
        os.close(ours)
    assert process.returncode == 0
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()))
    assert max(map(len, lines)) <= 80
    assert any("storing SmolLM2" in line and "43.0/98.4 MB" in line for line in lines)
    assert any("converting smollm2-135m-instruct:q4_1" in line and "50%" in line for line in lines)
    assert not any("⠋" in line for line in lines)  # its answer goes elsewhere


def test_a_pipe_gets_no_bars() -> None:
    """A pipe gets only what the command itself prints."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, env=environment(), check=True)
    assert (done.stdout, done.stderr) == (b"done\n", b"")

"""Converting a checkpoint takes little memory, whatever its size.

``CORRAL_LARGE_CHECKPOINT=1`` imports one of 2 GB, in four files.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints.sparse import write_sparse_checkpoint

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")

MIB = 1024 * 1024

_PEAK = """
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
"""

_CONVERT = f"""
import sys
from pathlib import Path
from corral.adapters.converters.safetensors.convert import convert
from corral.adapters.converters.safetensors.families import llama, qwen2, qwen3
from corral.core.specs.converters import ConvertRequest
from corral.core.specs.engines import LocalFile
{_PEAK}
folder, target = Path(sys.argv[1]), sys.argv[2]
files = [LocalFile(role="weights", path=str(file), name=file.name) for file in folder.iterdir()]
before = peak()
convert(ConvertRequest(model="m", files=tuple(files), folder=target), lambda share: None)
print(peak() - before)
"""

_IMPORT = f"""
import resource, sys
from corral import Corral
{_PEAK}
with Corral(models=sys.argv[2], config="") as corral:
    corral.import_model(sys.argv[1], name="large")
print(peak() + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def printed(program: str, *arguments: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path) -> None:
    """120 MB of weights whose largest tensor has 64 MB are converted in less memory than that tensor takes."""
    total = write_sparse_checkpoint(tmp_path / "checkpoint", width=1024, layers=4, rows=32 * 1024, files=2)
    assert total > 115 * MIB
    (tmp_path / "out").mkdir()
    assert printed(_CONVERT, tmp_path / "checkpoint", tmp_path / "out") < 60 * MIB
    assert (tmp_path / "out" / "model.gguf").stat().st_size > total


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CORRAL_LARGE_CHECKPOINT"), reason="the long form only")
def test_two_gigabytes_take_less_than_one_of_memory(tmp_path: Path) -> None:
    """Both processes of an import together, of a checkpoint in four files."""
    total = write_sparse_checkpoint(tmp_path / "checkpoint", width=4096, layers=7, rows=32 * 1024, files=4)
    assert total > 2000 * MIB
    peak_bytes = printed(_IMPORT, tmp_path / "checkpoint", tmp_path / "store")
    print(f"{total / MIB:.0f} MiB of weights, {peak_bytes / MIB:.0f} MiB of memory")
    assert peak_bytes < 1000 * MIB

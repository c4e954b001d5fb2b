"""Measures pulls and pushes beside curl, from and to the same local registry, with random bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

__all__ = ("TransferFigures", "measure_transfer")

_MODEL = "bench/random"
_CHUNK_BYTES = 1 << 24


class TransferFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds. The ratios are of speeds, Corral's to curl's; `memory_bytes` is the most that Corral used."""

    size_bytes: int
    curl_pull_s: float
    pull_s: float
    pull_memory_bytes: int
    curl_push_s: float
    push_s: float
    push_memory_bytes: int

    @property
    def pull_ratio(self) -> float:
        return self.curl_pull_s / self.pull_s

    @property
    def push_ratio(self) -> float:
        return self.curl_push_s / self.push_s


def measure_transfer(size_bytes: int, folder: Path | None = None) -> TransferFigures:
    """Needs twice the size on the disk of `folder`, and curl, tee and sha256sum.

    Corral's pull ends when everything is on the disk, curl's does not.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="corral-transfer-") as name:
        root = Path(name)
        source = root / "random"
        with source.open("wb") as file:
            for start in range(0, size_bytes, _CHUNK_BYTES):
                file.write(os.urandom(min(_CHUNK_BYTES, size_bytes - start)))
        with _serving(source) as address:
            environment = {
                **os.environ,
                "HOME": name,
                "CORRAL_MODELS": str(root / "models"),
                "CORRAL_HOST": f"unix:{root / 'none'}",
                "XDG_CONFIG_HOME": name,
                "XDG_CACHE_HOME": name,
            }
            target = root / "copy"
            os.sync()
            pipeline = f"curl -sf http://{address}/blob | tee '{target}' | sha256sum"
            curl_pull_s, _ = _timed(["sh", "-c", pipeline], environment)
            target.unlink()
            pull_s, pull_bytes = _timed(
                [*_CORRAL, "pull", f"oci://{address}/{_MODEL}", "--insecure", "--name", _MODEL], environment
            )
            curl_push_s, _ = _timed(["curl", "-sf", "-T", str(source), f"http://{address}/plain"], environment)
            push_s, push_bytes = _timed(
                [*_CORRAL, "push", _MODEL, f"oci://{address}/elsewhere", "--insecure"], environment
            )
    return TransferFigures(
        size_bytes=size_bytes,
        curl_pull_s=curl_pull_s,
        pull_s=pull_s,
        pull_memory_bytes=pull_bytes,
        curl_push_s=curl_push_s,
        push_s=push_s,
        push_memory_bytes=push_bytes,
    )


_CORRAL = (sys.executable, "-m", "corral.api.cli")


@contextmanager
def _serving(source: Path) -> Iterator[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.blob_server", str(source)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        yield f"127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def _timed(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, int]:
    """How long it took, in seconds, and the most memory that it used. Raises `CalledProcessError`."""
    began_s = time.monotonic()
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return time.monotonic() - began_s, usage.ru_maxrss * 1024

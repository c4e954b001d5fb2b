"""Loading and answering under strace: native code connects only to this machine."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STRACE = shutil.which("strace")

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(STRACE is None, reason="needs strace (Debian's package of that name)"),
]

SMOLLM2 = "smollm2-135m-instruct:q4_1"
_ADDRESS = re.compile(r'sa_family=(?P<family>AF_\w+)(?:.*?(?:inet_addr\(|inet_pton\(AF_INET6, )"(?P<address>[^"]+)")?')
_SILENT = {"AF_UNIX", "AF_NETLINK"}


def strangers(trace: str) -> list[str]:
    """The lines of a trace that name an address of another machine. A line that cannot be parsed counts as one."""
    found = []
    for line in trace.splitlines():
        match = _ADDRESS.search(line)
        if match is None:
            if "sa_family" in line:
                found.append(line)
        elif match["family"] not in _SILENT and (
            match["address"] is None or not ipaddress.ip_address(match["address"]).is_loopback
        ):
            found.append(line)
    return found


def traced(tmp_path: Path, arguments: list[str], environment: dict[str, str]) -> tuple[str, str]:
    """What the command printed, and the trace of all its processes."""
    trace = tmp_path / "trace.txt"
    # With the filter in the kernel, no other system call is held up.
    how = ["-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto", "-o", str(trace)]
    command = [str(STRACE), *how, sys.executable, *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, trace.read_text(encoding="utf-8", errors="replace")


def test_the_trace_would_show_a_stranger(tmp_path: Path) -> None:
    """A datagram and a connection to other machines are detected; one to this machine is not reported."""
    script = (
        "import socket\n"
        "near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); near.sendto(b'x', ('127.0.0.1', 9))\n"
        "far = socket.socket(); far.setblocking(False)\n"
        "try: far.connect(('192.0.2.1', 80))\n"
        "except OSError: pass\n"
        "six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "try: six.connect(('2001:db8::1', 53))\n"
        "except OSError: pass\n"
    )
    _, trace = traced(tmp_path, ["-c", script], dict(os.environ))
    seen = strangers(trace)
    assert [address for address in ("192.0.2.1", "2001:db8::1") if any(address in line for line in seen)] == [
        "192.0.2.1",
        "2001:db8::1",
    ]
    assert "127.0.0.1" in trace
    assert not any("127.0.0.1" in line for line in seen)


@pytest.fixture
def untold(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a user who has set none of the variables that turn telemetry off."""
    quiet = re.compile(r"TELEMETRY|DO_NOT_TRACK|HF_HUB|TRANSFORMERS_OFFLINE")
    return {name: value for name, value in environment.items() if not quiet.search(name)}


@pytest.mark.parametrize("engine", ["llama-cpp", "onnx-genai", "ctransformers"])
def test_a_chat_connects_to_nothing(engine: str, tmp_path: Path, untold: dict[str, str]) -> None:
    """An engine loads SmolLM2, after converting it if necessary, and answers."""
    prompt = ["run", SMOLLM2, "Why is the sky blue?", "--engine", engine, "--local"]
    arguments = ["-m", "corral.api.cli", *prompt, "-o", "num_predict=8", "-o", "temperature=0"]
    answer, trace = traced(tmp_path, arguments, untold)
    assert answer.split()
    assert strangers(trace) == []


def test_an_embedding_connects_to_nothing(
    minilm_int8: Path, tmp_path: Path, untold: dict[str, str], corral: Callable[..., Any]
) -> None:
    """ONNX Runtime loads a sentence encoder and computes a vector."""
    done = corral("import", str(minilm_int8), "--name", "minilm")
    assert done.returncode == 0, done.stderr
    answer, trace = traced(tmp_path, ["-m", "corral.api.cli", "run", "minilm", "the sea", "--local"], untold)
    assert answer.startswith("[")
    assert strangers(trace) == []


def test_an_upstream_is_all_that_is_connected_to(
    server: Any, tmp_path: Path, untold: dict[str, str], corral: Callable[..., Any]
) -> None:
    """A model behind another server on this machine connects only to that server."""
    done = corral("upstream", "behind", server.url, "--model", SMOLLM2)
    assert done.returncode == 0, done.stderr
    arguments = ["-m", "corral.api.cli", "run", "behind", "Why is the sky blue?", "--local", "-o", "num_predict=8"]
    answer, trace = traced(tmp_path, arguments, untold)
    assert answer.split()
    assert "connect(" in trace
    assert strangers(trace) == []
    assert corral("rm", "behind").returncode == 0

"""The command line with real weights: through a server, without one, and interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.native

MODEL = "smollm2-135m-instruct:q4_1"
GREEDY = ("-o", "temperature=0", "-o", "num_predict=16")


def test_one_answer_through_a_server_and_without_one(server: Any, corral: Callable[..., Any]) -> None:
    """`run` asks the server that is up, or does the work itself: the same text."""
    served = corral("run", MODEL, "Why is the sky blue?", *GREEDY, CORRAL_HOST=server.address)
    assert served.returncode == 0, served.stderr
    assert len(served.stdout.split()) > 8
    assert any("/api/generate" in line for line in server.log[-10:])
    alone = corral("run", "--local", MODEL, "Why is the sky blue?", *GREEDY)
    assert alone.stdout == served.stdout


def test_a_server_deletes_what_no_model_needs_when_it_starts(
    server: Any, environment: dict[str, str], within: Callable[..., bool]
) -> None:
    """The old blob of the fixture is gone; the model is whole."""
    blobs = Path(environment["CORRAL_MODELS"]) / "blobs"
    assert within(30, lambda: not (blobs / f"sha256-{'0' * 64}").exists())
    assert server.generate().status_code == 200


def test_what_runs_is_listed(server: Any, corral: Callable[..., Any]) -> None:
    """`ps` shows the loaded model, `stop` unloads it."""
    assert server.generate().status_code == 200
    assert MODEL in corral("ps", CORRAL_HOST=server.address).stdout
    assert corral("stop", MODEL, CORRAL_HOST=server.address).returncode == 0
    assert server.running() == []


@pytest.mark.parametrize("where", ["server", "here"])
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_an_interrupted_answer(
    where: str, server: Any, environment: dict[str, str], within: Callable[..., bool]
) -> None:
    """Ctrl-C ends an endless answer at once, with the status of an interrupt; the server stops computing it."""
    command = ["run", MODEL, "Tell me a story.", "-o", "ignore_eos=true", "-o", "num_predict=100000"]
    with subprocess.Popen(
        [sys.executable, "-m", "corral.api.cli", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment | ({"CORRAL_HOST": server.address} if where == "server" else {}),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert b"Traceback" not in errors
    assert len(rest) < 100_000
    assert where == "here" or within(30, lambda: server.active() == 0)

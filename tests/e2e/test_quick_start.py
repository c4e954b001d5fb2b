"""A newcomer follows the README: the first command in a new clone, then every other block."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = [pytest.mark.native, pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="needs a shell")]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGE = ("core", "adapters", "plugins", "api", "src", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE")
BLOCK = re.compile(r"(?P<before>[^\n]*)\n\n```(?P<language>bash|python)\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)
# Blocks of other installations, which compile for minutes or want a graphics card, and the tests themselves.
OTHER_INSTALLATIONS = ("'.[all]'", "CMAKE_ARGS=", "bin/tox")
# Without this, answers are drawn at random and may go on until the context is full.
STEADY = '[models."smollm2-135m-instruct:q4_1"]\noptions = { temperature = 0, num_predict = 16 }\n'
# Answers of hundreds of tokens show no more than those of a few.
LENGTH = re.compile(r"(?<=num_predict)(=|\": )[0-9]+")
README_PORT = "11435"  # where nothing listens on a machine that runs Ollama


class Newcomer:
    """A clone of the repository, and an empty home."""

    def __init__(self, clone: Path, environment: dict[str, str]) -> None:
        self.clone = clone
        self.environment = environment

    def shell(self, script: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{script}"],
            cwd=self.clone,
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )


def blocks() -> list[re.Match[str]]:
    return list(BLOCK.finditer(README))


FIRST = blocks()[0]["code"]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory, user_at: Callable[..., dict[str, str]]) -> Newcomer:
    """A newcomer after the README's first command, which must end in an answer."""
    clone = tmp_path_factory.mktemp("clone")
    for name in PACKAGE:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"), symlinks=True
            )
        else:
            shutil.copy(ROOT / name, clone / name)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    environment = user_at(
        clone.parent,
        PIP_CACHE_DIR=os.environ.get("PIP_CACHE_DIR") or str(cache / "pip"),
        PIP_NO_COMPILE="no",  # "no" switches compiling off: most modules that are installed are never imported here
    )
    for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV"):
        environment.pop(name, None)
    config = Path(environment["XDG_CONFIG_HOME"], "corral", "config.toml")
    config.parent.mkdir(parents=True)
    config.write_text(STEADY)
    user = Newcomer(clone, environment)
    done = user.shell(FIRST.replace("python -m venv", "python3 -m venv", 1))
    assert done.returncode == 0, done.stderr
    assert re.search(r"[A-Za-z]{2}", done.stdout)
    environment["PATH"] = os.pathsep.join((str(clone / ".venv" / "bin"), environment["PATH"]))
    return user


@contextmanager
def serving(user: Newcomer) -> Iterator[str]:
    """Runs the block that starts a server, on a free port, and yields that port."""
    [command] = [block["code"].strip() for block in blocks() if block["code"].startswith("corral serve")]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with subprocess.Popen(
        command.replace(README_PORT, port).split(),
        cwd=user.clone,
        env=user.environment | {"CORRAL_HOST": "127.0.0.1"},
        executable=shutil.which("corral", path=user.environment["PATH"]),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            deadline = time.monotonic() + 60
            while "listens on" not in (line := process.stderr.readline()):
                assert line, "the server has ended"
                assert time.monotonic() < deadline
            yield port
        finally:
            process.terminate()
            process.communicate(timeout=60)
            assert process.returncode == 0


def test_every_block_works_after_the_first_command(newcomer: Newcomer, smollm2: Path) -> None:
    """In the README's order, each block works, with only what it asks for installed."""
    shutil.copy(smollm2, newcomer.clone / "model.gguf")
    done = []
    for block in blocks()[1:]:
        code, before = LENGTH.sub(r"\g<1>12", block["code"]), block["before"]
        if any(word in code for word in OTHER_INSTALLATIONS) or code.startswith("corral serve"):
            continue
        for wanted in re.findall(r"`(\.venv/bin/pip install [^`]+)`", before):
            assert newcomer.shell(wanted).returncode == 0
        if block["language"] == "bash":
            outcome = newcomer.shell(code)
        elif "from ollama" in code:
            with serving(newcomer) as port:
                outcome = newcomer.shell(f"python - <<'END'\n{code.replace(README_PORT, port)}\nEND")
        else:
            outcome = newcomer.shell(f"python - <<'END'\n{code}\nEND")
        assert outcome.returncode == 0, f"{code}\n{outcome.stderr}"
        assert outcome.stdout.strip(), code
        if "The capital of France is" in code:
            assert outcome.stdout.count("Paris") >= code.count("The capital of France is")
        assert "Traceback" not in outcome.stderr
        done.append(code)
    assert len(blocks()) == len(re.findall(r"^```(?:bash|python)$", README, re.MULTILINE)), "a block was not seen"
    assert len(done) >= 7


def test_what_is_missing_is_said_with_a_command_that_mends_it(newcomer: Newcomer) -> None:
    """An engine that is not installed names the pip of this environment, and a package that pip can find."""
    done = newcomer.shell('corral run smollm2-135m-instruct:q4_1 "Hello" --engine llama-cpp')
    assert done.returncode == 1
    hint = done.stderr.strip().splitlines()[-1]
    assert f"{newcomer.clone / '.venv' / 'bin'}" in hint
    assert "-m pip install" in hint
    assert "llama-cpp-python==" in hint
    assert "corral[" not in hint

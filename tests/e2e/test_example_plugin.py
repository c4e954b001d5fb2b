"""The example package as somebody else would have it: built as a wheel, installed from it, tested, and served."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "corral-markov"
TEXT = "The cat sat on the mat. The cat saw the dog. Once upon a time a horse came to the mat. The end."

Corral = Callable[..., str]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package, installed from its wheel; nothing is fetched for that."""
    wheels, folder = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(wheels), str(EXAMPLE)],
        check=True,
    )
    [wheel] = wheels.glob("corral_markov-*-none-any.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)], check=True)
    return folder


@pytest.fixture(scope="module")
def environment(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """A user who has the package, and a home with nothing in it."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CORRAL_", "OLLAMA_", "PYTEST_"))}
    folders = {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")}
    ours = {"PYTHONPATH": str(installed), "CORRAL_MODELS": str(home / "models"), "CORRAL_HOST": f"unix:{home / 's'}"}
    return kept | folders | ours


@pytest.fixture(scope="module")
def corral(environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Corral:
    """Calls the command in a process of its own, with a chain for a model: what it prints."""
    folder = tmp_path_factory.mktemp("work")

    def call(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "corral.api.cli", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (folder / "cats.txt").write_text(TEXT)
    assert "ways on from" in call("markov", "train", "cats.txt", "cats.markov")
    call("import", "cats.markov")
    return call


def test_its_own_tests_pass(environment: Mapping[str, str], tmp_path: Path) -> None:
    """The kit and the package's tests run green on what the wheel installed, with the sources out of reach."""
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    shutil.copy(EXAMPLE / "pyproject.toml", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_kit_tries_it_by_name(environment: Mapping[str, str], corral: Corral, tmp_path: Path) -> None:
    """An installed engine is tried without a test file: its name and its model are enough."""
    (tmp_path / "cats.txt").write_text(TEXT)
    corral("markov", "train", str(tmp_path / "cats.txt"), str(tmp_path / "cats.markov"))
    kit = ["-p", "corral.plugins.testing", "--pyargs", "corral.plugins.testing.kit", "--corral-engine", "markov"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *kit, "--corral-model", "cats.markov"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_the_command_line_knows_it(corral: Corral) -> None:
    """`plugins`, `engines`, `list` and the help tell of it; its model answers in this process."""
    [plugin] = [one for one in json.loads(corral("plugins", "--json")) if one["name"] == "markov"]
    assert (plugin["state"], plugin["distribution"]) == ("loaded", "corral-markov")
    assert "markov" in [engine["name"] for engine in json.loads(corral("engines", "--json"))]
    assert "Make Markov chains." in corral("--help")
    assert corral("run", "cats", "Once upon", "--local") == " a time a horse came to the mat.\n"


def test_a_server_serves_it(environment: Mapping[str, str], corral: Corral) -> None:
    """In a real server the model answers, the route of the package answers, and its settings hold."""
    with serving(environment, "engines.markov.endless=true") as url:
        body = {"model": "cats", "prompt": "Once upon", "stream": False, "options": {"num_predict": 40}}
        answer = httpx.post(f"{url}/api/generate", json=body, timeout=30).json()
        assert answer["response"].startswith(" a time a horse")
        assert answer["done_reason"] == "length"  # endless: nothing else would end it
        found = httpx.get(f"{url}/markov/cats/next", params={"after": "Once upon"}, timeout=30)
        assert found.json() == [{"word": "a", "probability": 1.0}]
        assert httpx.get(f"{url}/markov/nobody/next", timeout=30).status_code == 404


@contextmanager
def serving(environment: Mapping[str, str], assignment: str) -> Iterator[str]:
    """The address of a server, until the block is left."""
    command = [sys.executable, "-m", "corral.api.cli", "--set", assignment, "serve", "--host", "127.0.0.1", "--port"]
    with subprocess.Popen([*command, "0"], stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        lines: list[str] = []
        try:
            for line in process.stderr:
                lines.append(line)
                if "listens on" in line:
                    break
            assert lines, "the server ended at once"
            assert "listens on" in lines[-1], lines
            # What it says from now on must go somewhere, or it stops saying it.
            rest = threading.Thread(target=process.stderr.read)
            rest.start()
            yield lines[-1].split()[-1]
        finally:
            process.terminate()
            process.wait(20)
        rest.join()
    assert process.returncode == 0

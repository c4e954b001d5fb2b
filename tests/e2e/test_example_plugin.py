"""The example package as its users would have it: built as a wheel, installed from it, tested, and served."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
def environment(
    installed: Path, tmp_path_factory: pytest.TempPathFactory, user_at: Callable[..., Mapping[str, str]]
) -> Mapping[str, str]:
    """The environment of a user with an empty home who has installed the package."""
    return user_at(tmp_path_factory.mktemp("home"), PYTHONPATH=str(installed))


@pytest.fixture(scope="module")
def corral(
    environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory, run_corral: Callable[..., Any]
) -> Corral:
    """Runs the command in a separate process, with a chain as the model, and returns its output."""
    folder = tmp_path_factory.mktemp("work")

    def call(*arguments: str) -> str:
        done = run_corral(environment, *arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    (folder / "cats.txt").write_text(TEXT)
    assert "ways on from" in call("markov", "train", "cats.txt", "cats.markov")
    call("import", "cats.markov")
    return call


def test_its_own_tests_pass(environment: Mapping[str, str], tmp_path: Path) -> None:
    """The kit and the package's tests pass for what the wheel installed, without access to the sources."""
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
    """`plugins`, `engines` and the help mention it; its model answers in the command's own process."""
    [plugin] = [one for one in json.loads(corral("plugins", "--json")) if one["name"] == "markov"]
    assert (plugin["state"], plugin["distribution"]) == ("loaded", "corral-markov")
    assert "markov" in [engine["name"] for engine in json.loads(corral("engines", "--json"))]
    assert "Make Markov chains." in corral("--help")
    assert corral("run", "cats", "Once upon", "--local") == " a time a horse came to the mat.\n"


def test_a_server_serves_it(environment: Mapping[str, str], corral: Corral, serve_corral: Callable[..., Any]) -> None:
    """In a real server the model answers, the route of the package answers, and its settings hold."""
    with serve_corral(environment, settings=("engines.markov.endless=true",)) as server:
        url = server.url
        body = {"model": "cats", "prompt": "Once upon", "stream": False, "options": {"num_predict": 40}}
        answer = httpx.post(f"{url}/api/generate", json=body, timeout=30).json()
        assert answer["response"].startswith(" a time a horse")
        assert answer["done_reason"] == "length"  # endless: nothing else would end it
        found = httpx.get(f"{url}/markov/cats/next", params={"after": "Once upon"}, timeout=30)
        assert found.json() == [{"word": "a", "probability": 1.0}]
        assert httpx.get(f"{url}/markov/nobody/next", timeout=30).status_code == 404

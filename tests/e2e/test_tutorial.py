"""The tutorial, followed word by word: its commands run, its changes apply, and its outputs are right."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
USUAL_ADDRESS = "http://127.0.0.1:11434"
# What a machine without a network, and the environment of the tests, have done already.
DONE = ("python -m venv", "source ", "pip install")


def test_the_tutorial_works(
    tmp_path: Path, user_at: Callable[..., dict[str, str]], serve_corral: Callable[..., Any]
) -> None:
    """From `new-plugin` to the wheel, in the order of the page."""
    folder = tmp_path / "corral-parrot"
    environment = user_at(
        tmp_path,
        PYTHONPATH=os.pathsep.join((str(folder), str(tmp_path / "entry"))),  # where an editable install would put it
        PYTHONDONTWRITEBYTECODE="1",  # files change within a second
    )
    output = ""
    for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "bash" and "curl " in text:
            with serve_corral(environment, cwd=folder) as server:
                ask_a_server(text, server.url)
        elif language == "bash" and text != "corral serve\n":
            output = shell(text, folder if folder.exists() else tmp_path, environment)
            if not (tmp_path / "entry").exists():
                install_entry_point(folder, tmp_path / "entry", environment)
        elif language == "python":
            (folder / text.partition("\n")[0].removeprefix("# ")).write_text(text)
        elif language == "diff":
            change(folder, text)
        elif language == "text" and not text.startswith("parrot 1"):
            assert text.split() == output.split()
    assert list((folder / "dist").glob("corral_parrot-*.whl"))


def install_entry_point(folder: Path, target: Path, environment: Mapping[str, str]) -> None:
    """Writes what an editable install would write, without fetching anything."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps", "--no-index"]
    command = [*pip, "--no-build-isolation", "--target", str(target), str(folder)]
    subprocess.run(command, check=True, env=environment)
    shutil.rmtree(target / "corral_parrot")


def shell(text: str, folder: Path, environment: Mapping[str, str]) -> str:
    lines = [line for line in text.splitlines() if not line.startswith((*DONE, "cd "))]
    if not (folder / "corral_parrot").exists():
        lines.remove("pytest")  # the package is not installed yet
    script = "\n".join(("set -e", *lines)).replace("pip wheel", "pip wheel --no-build-isolation --no-index --quiet")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, text + done.stdout + done.stderr
    if "--tb=line" in text:
        failed = re.findall(r"^FAILED \S+::(\w+)", done.stdout, flags=re.MULTILINE)
        assert failed == ["test_usage_adds_up"]
    return done.stdout


def change(folder: Path, text: str) -> None:
    """Applies a change as the page shows it; the text that it replaces must be there exactly once."""
    name, *lines = text.removeprefix("--- ").splitlines()
    old = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    new = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    file = folder / name
    source = file.read_text()
    assert source.count(old) == 1, text
    file.write_text(source.replace(old, new))


def ask_a_server(text: str, address: str) -> None:
    for line in text.splitlines():
        _, url, *rest = shlex.split(line)
        url = url.replace(USUAL_ADDRESS, address)
        body = rest[rest.index("-d") + 1] if rest else None
        answer = httpx.get(url) if body is None else httpx.post(url, content=body, timeout=30)
        assert answer.status_code == 200, answer.text
        assert "Polly" in answer.text

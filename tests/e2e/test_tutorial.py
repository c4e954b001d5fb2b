"""The tutorial, followed word by word: its commands run, its files are written, its changes fit, its outputs come."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
USUAL_ADDRESS = "http://127.0.0.1:11434"
# What a machine without a network, and the environment of the tests, have done already.
DONE = ("python -m venv", "source ", "pip install")


def test_the_tutorial_works(tmp_path: Path) -> None:
    """From `new-plugin` to the wheel, in the order of the page."""
    folder = tmp_path / "corral-parrot"
    environment = newcomer(tmp_path, folder)
    output = ""
    for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "bash" and "curl " in text:
            ask_a_server(text, folder, environment)
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


def newcomer(home: Path, folder: Path) -> dict[str, str]:
    """A home with nothing in it, and the package where an editable install would have put it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CORRAL_", "OLLAMA_", "PYTEST_"))}
    folders = {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")}
    ours = {
        "CORRAL_MODELS": str(home / "models"),
        "CORRAL_HOST": f"unix:{home / 's'}",
        "PATH": os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"])),
        "PYTHONPATH": os.pathsep.join((str(folder), str(home / "entry"))),
        "PYTHONDONTWRITEBYTECODE": "1",  # files change within a second
    }
    return kept | folders | ours


def install_entry_point(folder: Path, target: Path, environment: Mapping[str, str]) -> None:
    """What an editable install writes down, with nothing fetched for it."""
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
    """Applies a change as the page shows it; what it takes away, and what it stands beside, is there exactly once."""
    name, *lines = text.removeprefix("--- ").splitlines()
    old = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    new = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    file = folder / name
    source = file.read_text()
    assert source.count(old) == 1, text
    file.write_text(source.replace(old, new))


def ask_a_server(text: str, folder: Path, environment: Mapping[str, str]) -> None:
    with serving(folder, environment) as address:
        for line in text.splitlines():
            _, url, *rest = shlex.split(line)
            url = url.replace(USUAL_ADDRESS, address)
            body = rest[rest.index("-d") + 1] if rest else None
            answer = httpx.get(url) if body is None else httpx.post(url, content=body, timeout=30)
            assert answer.status_code == 200, answer.text
            assert "Polly" in answer.text


@contextmanager
def serving(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    command = [sys.executable, "-m", "corral.api.cli", "serve", "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "listens on" in line)
            # What it says from now on must go somewhere, or it stops saying it.
            threading.Thread(target=process.stderr.read).start()
            yield line.split()[-1]
        finally:
            process.terminate()
            process.wait(20)

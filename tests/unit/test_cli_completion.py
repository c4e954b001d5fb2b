"""Completion, requested as shells do it, and by a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from corral import Corral as Library
from corral.adapters.engines.upstream.spec import APIS
from corral.api.cli.upstream import upstream
from corral.plugins.testing.gguf import gguf_bytes

Corral = Callable[..., "subprocess.CompletedProcess[str]"]
Completed = Callable[[dict[str, str], str], list[str]]


@pytest.fixture
def environment(tmp_path: Path, user_at: Callable[..., dict[str, str]]) -> dict[str, str]:
    """A user with the models horse:a and horse:b."""
    file = tmp_path / "any.gguf"
    file.write_bytes(gguf_bytes())
    with Library(config="", settings={"stores.filesystem.root": str(tmp_path / "models")}) as library:
        for name in ("horse:a", "horse:b"):
            library.import_model(file, name=name)
    return user_at(tmp_path, HOME=str(tmp_path), SHELL="/bin/bash")


@pytest.fixture
def completed(call_corral: Corral) -> Completed:
    """The completions for bash at the end of a line."""

    def complete(environment: dict[str, str], line: str) -> list[str]:
        asked = {"CORRAL_LINE": line, "CORRAL_BREAKS": " \t\n\"'><=;|&(:", "_CORRAL_COMPLETE": "bash_complete"}
        ended = call_corral(environment | asked)
        assert (ended.returncode, ended.stderr) == (0, "")
        return [text.partition("\t")[2] for text in ended.stdout.splitlines() if text]

    return complete


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("corral ru", ["run"]),
        ("corral run ho", ["horse:a", "horse:b"]),
        ("corral run horse:", ["a", "b"]),
        ("corral show HORSE:b", ["b"]),
        ("corral rm horse:a ho", ["horse:a", "horse:b"]),
        ("corral run horse:a --engine ll", ["llama-cpp"]),
        ("corral run horse:a --engine=ll", ["llama-cpp"]),
        ("corral run horse:a -o temp", ["temperature="]),
        ("corral convert horse:a --to ctr", ["ctransformers"]),
        ("corral convert horse:a --to onnx -p bi", ["bits="]),
        ("corral serve --log-level w", ["warning"]),
        ("corral --set scheduler.keep", ["scheduler.keep_alive="]),
        ("corral --set engines.llama-cpp.num_g", ["engines.llama-cpp.num_gpu="]),
        ("corral keys re", ["revoke"]),
        ("corral keys create x --scopes ma", ["manage"]),
        ("corral list --j", ["--json"]),
        ("corral stop ho", []),
        ("corral pull x --name ho", []),
    ],
)
def test_words(completed: Completed, environment: dict[str, str], line: str, words: list[str]) -> None:
    """Commands, options, models, engines, converters, parameters, settings; for a name with a colon, only the rest."""
    assert completed(environment, line) == words


@pytest.mark.parametrize(
    "broken", [{"CORRAL_MODELS": "/dev/null/none"}, {"CORRAL_MAX_QUEUE": "many"}, {"CORRAL_CONFIG": "/none.toml"}]
)
def test_nothing_is_said_of_what_is_wrong(
    completed: Completed, environment: dict[str, str], broken: dict[str, str]
) -> None:
    """With an unreadable store or wrong settings nothing is completed and nothing is printed."""
    assert completed(environment | broken, "corral show ho") == []
    assert "run" in completed(environment | broken, "corral r")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_install(shell: str, environment: dict[str, str], call_corral: Corral, tmp_path: Path) -> None:
    """It writes the script and has new shells read it; a second time changes nothing."""
    start = tmp_path / {"bash": ".bashrc", "zsh": ".zshrc", "fish": "none"}[shell]
    start.write_text("alias ll='ls -l'")
    environment = environment | {"SHELL": f"/usr/bin/{shell}"}
    environment.pop("ZDOTDIR", None)
    texts = []
    for _ in range(2):
        done = call_corral(environment, "completion", "--install")
        assert done.returncode == 0, done.stderr
        file = Path(done.stdout.splitlines()[0].removeprefix("wrote "))
        assert file.read_text().strip() == call_corral(environment, "completion", shell).stdout.strip()
        texts.append(start.read_text())
    assert texts[0] == texts[1]
    assert texts[0].startswith("alias ll='ls -l'")
    assert (str(file) in texts[0]) == (shell != "fish")


def test_a_shell_that_nobody_knows(environment: dict[str, str], call_corral: Corral) -> None:
    """An unknown shell is a usage error that lists the known ones."""
    done = call_corral(environment | {"SHELL": "/bin/tcsh"}, "completion", "--install")
    assert done.returncode == 2
    assert "$SHELL is tcsh: name the shell (bash, zsh, fish)" in done.stderr


_ASK = """
. "$HOME/.bashrc"
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
complete -p corral >/dev/null || exit 3
_corral_completion corral
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a bash")
def test_a_real_bash(environment: dict[str, str], run_corral: Corral) -> None:
    """After the one command that installs completion, bash completes."""
    scripts = os.path.dirname(sys.executable)
    environment = environment | {"PATH": os.pathsep.join((scripts, environment["PATH"]))}
    assert run_corral(environment, "completion", "--install").returncode == 0
    for line, words in (("corral run ho", ["horse:a", "horse:b"]), ("corral run horse:", ["a", "b"])):
        asked = ["bash", "--norc", "-c", _ASK, "bash", line]
        done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split() == words
        assert "Traceback" not in done.stderr


def test_the_apis_of_upstreams_are_those_there_are() -> None:
    """The option's choices are the APIs that the engine knows."""
    [option] = [one for one in upstream.params if one.name == "api"]
    assert list(option.type.choices) == list(APIS)  # type: ignore[attr-defined]

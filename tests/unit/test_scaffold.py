"""`corral new-plugin`: what it writes is a package whose tests pass and whose engine answers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from corral.api.cli.group import cli
from corral.core.errors import Conflict, InvalidName
from corral.core.pip_lines import pip_line
from corral.plugins.scaffold import FORMS, plugin_names, write_plugin

TUTORIAL = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["parrot", "corral-parrot"])
def test_names(name: str) -> None:
    """With or without the prefix, engine, distribution and package are called the same."""
    names = plugin_names(name)
    assert (names.engine, names.distribution, names.package) == ("parrot", "corral-parrot", "corral_parrot")
    assert plugin_names("grey-parrot-2").package == "corral_grey_parrot_2"


@pytest.mark.parametrize(
    "name", ["", "corral-", "Parrot", "../up", "/etc", "a b", "-a", "a-", "a--b", "2a", "a_b", "ä", "a\n", "a" * 41]
)
def test_names_that_are_none(name: str) -> None:
    """What could be a path, an option, or no Python name is refused."""
    with pytest.raises(InvalidName):
        plugin_names(name)


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    """A file, a folder or a link of the name is refused and untouched, and nothing else is written."""
    (tmp_path / "corral-parrot").symlink_to("nowhere")
    with pytest.raises(Conflict, match="corral-parrot already exists"):
        write_plugin(plugin_names("parrot"), tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["corral-parrot"]


def test_the_command(tmp_path: Path) -> None:
    """It makes the folder where it is told to, says what comes next, and refuses the name of an engine it has."""
    done = CliRunner().invoke(cli, ["new-plugin", "grey-parrot", "--dir", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "new" / "corral-grey-parrot"
    assert f"cd {folder} && {pip_line('-e', '.[test]')} && " in done.output
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == [folder.name]
    assert not [file for file in folder.rglob("*") if "$" in file.name or file.suffix == ".template"]
    for taken in ("fake", "builtin"):
        refused = CliRunner().invoke(cli, ["new-plugin", taken, "--dir", str(tmp_path)])
        assert isinstance(refused.exception, Conflict)


@pytest.mark.parametrize("form", FORMS)
def test_what_it_writes_works(tmp_path: Path, form: str) -> None:
    """Installed, its own tests pass, the conformance kit among them, linters and type checkers find nothing, and its
    engine answers for its file.
    """
    folder = write_plugin(plugin_names("grey-parrot"), tmp_path, form)
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(installed), str(folder)], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CORRAL_", "OLLAMA_", "PYTEST_"))}
    home = {f"XDG_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")}
    ours = {"PYTHONPATH": str(installed), "CORRAL_MODELS": str(tmp_path / "m"), "CORRAL_HOST": f"unix:{tmp_path / 's'}"}

    def call(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=folder,
            env=kept | home | ours,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    tested = call("pytest", "-q", "-p", "no:cacheprovider")
    assert "failed" not in tested
    assert " passed" in tested
    call("ruff", "check", "--no-cache", "--extend-select", "I,B,UP,ANN", ".")
    call("ruff", "format", "--no-cache", "--check", ".")
    call("mypy", "--cache-dir", str(tmp_path.parent / "mypy"), "corral_grey_parrot")
    call("corral.api.cli", "import", "hello.grey-parrot")
    assert call("corral.api.cli", "run", "hello", "Hello?").split()[0] in ("Good", "How", "A")


def test_the_tutorial_shows_what_is_written(tmp_path: Path) -> None:
    """Its excerpts of the step engine and of the one that sees conversations are those of the packages."""
    step = write_plugin(plugin_names("choir"), tmp_path, "step") / "corral_choir" / "engine.py"
    chat = write_plugin(plugin_names("butler"), tmp_path, "chat") / "corral_butler" / "engine.py"
    excerpts = re.findall(r"^```py\n(.*?)^```", TUTORIAL, flags=re.DOTALL | re.MULTILINE)
    assert len(excerpts) == 3
    for excerpt, file in zip(excerpts, (step, chat, chat), strict=True):
        assert unindented(excerpt) in unindented(file.read_text(encoding="utf-8"))


def unindented(text: str) -> str:
    """A page shows a part of a class without what it stands in."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def test_a_form_that_there_is_not(tmp_path: Path) -> None:
    """The command names those there are."""
    refused = CliRunner().invoke(cli, ["new-plugin", "parrot", "--form", "train", "--dir", str(tmp_path)])
    assert refused.exit_code == 2
    assert "generator" in refused.output
    assert "chat" in refused.output

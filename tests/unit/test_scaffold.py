"""`corral new-plugin`: what it writes is a package whose tests pass and whose engine answers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from corral.api.cli.command_group import cli
from corral.core.errors import Conflict, InvalidName
from corral.core.wording.pip_lines import pip_line
from corral.plugins.scaffold import FORMS, plugin_names, write_plugin

TUTORIAL = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text(encoding="utf-8")
_NOT_INHERITED = ("CORRAL_", "OLLAMA_", "PYTEST_")


@pytest.mark.parametrize("name", ["parrot", "corral-parrot"])
def test_names(name: str) -> None:
    """Engine, distribution and package have the same names, with or without the prefix."""
    names = plugin_names(name)
    assert (names.engine, names.distribution, names.package) == ("parrot", "corral-parrot", "corral_parrot")
    assert plugin_names("grey-parrot-2").package == "corral_grey_parrot_2"


@pytest.mark.parametrize(
    "name", ["", "corral-", "Parrot", "../up", "/etc", "a b", "-a", "a-", "a--b", "2a", "a_b", "ä", "a\n", "a" * 41]
)
def test_names_that_are_none(name: str) -> None:
    """A name that could be a path or an option, or is not a Python name, is refused."""
    with pytest.raises(InvalidName):
        plugin_names(name)


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    """A file, a folder or a link of the name is refused and untouched, and nothing else is written."""
    (tmp_path / "corral-parrot").symlink_to("nowhere")
    with pytest.raises(Conflict, match="corral-parrot already exists"):
        write_plugin(plugin_names("parrot"), tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["corral-parrot"]


def test_the_command(tmp_path: Path) -> None:
    """It creates the folder in the given place, says what comes next, and refuses the name of an existing engine."""
    done = CliRunner().invoke(cli, ["new-plugin", "grey-parrot", "--dir", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "new" / "corral-grey-parrot"
    assert f"cd {folder} && {pip_line('-e', '.[test]')} && " in done.output
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == [folder.name]
    assert not [file for file in folder.rglob("*") if "$" in file.name or file.suffix == ".template"]
    for taken in ("fake", "builtin"):
        refused = CliRunner().invoke(cli, ["new-plugin", taken, "--dir", str(tmp_path)])
        assert isinstance(refused.exception, Conflict)


class Packages:
    """One package of each form, written and installed beside each other."""

    def __init__(self, place: Path) -> None:
        self.folders = {form: write_plugin(plugin_names(f"{form}-parrot"), place, form) for form in FORMS}
        installed = place / "installed"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps"]
        options = ["--no-index", "--no-build-isolation", "--target", str(installed)]
        subprocess.run([*pip, *options, *map(str, self.folders.values())], check=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
        home = {f"XDG_{kind}_HOME": str(place / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")}
        ours = {"PYTHONPATH": str(installed), "CORRAL_MODELS": str(place / "m"), "CORRAL_HOST": f"unix:{place / 's'}"}
        self.place = place
        self._environment = kept | home | ours

    def call(self, folder: Path, *words: str) -> str:
        """The output of a command of this Python, which must succeed."""
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    return Packages(tmp_path_factory.mktemp("packages"))


@pytest.mark.parametrize("form", FORMS)
def test_what_it_writes_works(packages: Packages, form: str) -> None:
    """Its own tests pass, the conformance kit among them, and its engine answers for its file."""
    folder = packages.folders[form]
    tested = packages.call(folder, "pytest", "-q", "-p", "no:cacheprovider")
    assert "failed" not in tested
    assert " passed" in tested
    packages.call(folder, "corral.api.cli", "import", f"hello.{form}-parrot", "--name", form)
    assert packages.call(folder, "corral.api.cli", "run", form, "Hello?").split()[0] in ("Good", "How", "A")


def test_linters_and_type_checkers_find_nothing(packages: Packages) -> None:
    """Linters and type checkers accept what is written for each form."""
    folders = [folder.name for folder in packages.folders.values()]
    packages.call(packages.place, "ruff", "check", "--no-cache", "--extend-select", "I,B,UP,ANN", *folders)
    packages.call(packages.place, "ruff", "format", "--no-cache", "--check", *folders)
    sources = [f"{folder.name}/{folder.name.replace('-', '_')}" for folder in packages.folders.values()]
    packages.call(packages.place, "mypy", "--strict", "--cache-dir", str(packages.place / "mypy"), *sources)


def test_the_tutorial_shows_what_is_written(tmp_path: Path) -> None:
    """Its excerpts of the step engine and the conversation engine match the generated packages."""
    step = write_plugin(plugin_names("choir"), tmp_path, "step") / "corral_choir" / "engine.py"
    chat = write_plugin(plugin_names("butler"), tmp_path, "chat") / "corral_butler" / "engine.py"
    excerpts = re.findall(r"^```py\n(.*?)^```", TUTORIAL, flags=re.DOTALL | re.MULTILINE)
    assert len(excerpts) == 3
    for excerpt, file in zip(excerpts, (step, chat, chat), strict=True):
        assert unindented(excerpt) in unindented(file.read_text(encoding="utf-8"))


def unindented(text: str) -> str:
    """A page shows part of a class without its surroundings."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def test_a_form_that_there_is_not(tmp_path: Path) -> None:
    """The command lists the available ones."""
    refused = CliRunner().invoke(cli, ["new-plugin", "parrot", "--form", "train", "--dir", str(tmp_path)])
    assert refused.exit_code == 2
    assert "generator" in refused.output
    assert "chat" in refused.output

"""The lines that install what is missing."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import corral
from corral.core.wording.pip_lines import install_line, pip_line, python_line
from corral.plugins.hooks import ENGINES
from corral.plugins.manager import PluginManager


class Hinted:
    """The hint of a spec."""

    def __init__(self, install_hint: str | None) -> None:
        self.install_hint = install_hint


def test_a_line_is_of_this_python() -> None:
    """Not whichever ``pip`` comes first on PATH; each requirement is one shell word."""
    assert shlex.split(pip_line("llguidance>=1.9,<2")) == [sys.executable, "-m", "pip", "install", "llguidance>=1.9,<2"]
    assert shlex.split(python_line("-m", "ensurepip")) == [sys.executable, "-m", "ensurepip"]


def test_an_extra_is_its_packages() -> None:
    """``corral[…]`` is on no index: the packages are named, each once, without the marker that made it an extra."""
    words = shlex.split(pip_line("corral[llama-cpp]"))[4:]
    assert "llama-cpp-python==0.3.36" in words
    assert any(word.startswith("llguidance") for word in words)
    assert not any("extra" in word or word.startswith("corral") for word in words)
    both = shlex.split(pip_line("corral[llama-cpp,onnx]"))[4:]
    assert len(both) == len(set(both))
    assert set(words) < set(both)
    assert shlex.split(pip_line("corral[no-such-extra]"))[4:] == ["corral[no-such-extra]"]


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_the_line_can_be_pasted() -> None:
    """A shell runs it as printed, markers and comparisons included; nothing already installed is fetched."""
    line = pip_line("corral[server]")
    done = subprocess.run(
        f"{line} --no-index --disable-pip-version-check --quiet",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("hint", "line"),
    [
        ("pip install 'steam[gpu]>=2'", ["-m", "pip", "install", "steam[gpu]>=2"]),
        ("pip install --pre steam", ["-m", "pip", "install", "--pre", "steam"]),
    ],
)
def test_a_hint_of_a_plugin_gets_this_python_too(hint: str, line: list[str]) -> None:
    """The author writes the usual pip line."""
    found = install_line(Hinted(hint))
    assert found is not None
    assert shlex.split(found) == [sys.executable, *line]


def test_a_hint_that_is_no_pip_line_stays() -> None:
    """A hint may be another program's command, or prose, or missing."""
    for hint in ("apt install libsteam", "ask Steam's makers for 'it", None):
        assert install_line(Hinted(hint)) == hint


def test_every_engines_line_names_its_own_requirement() -> None:
    """Pasting it installs the version that the engine needs."""
    manager = PluginManager()
    manager.load_entry_points()
    for engine in manager.specs(ENGINES):
        line = install_line(engine)
        if engine.install_hint is None or engine.requirement is None:
            continue
        assert line is not None
        name = engine.requirement.split("|")[0].split("=")[0].split(">")[0]
        assert any(word.startswith(name) for word in shlex.split(line)), (engine.name, line)


def test_no_line_of_a_bare_pip_is_printed() -> None:
    """Outside of specs' hints, which `install_line` rewrites, every line is made by `pip_line`."""
    root = Path(corral.__file__).parent
    found = [
        f"{path.relative_to(root)}:{number}"
        for part in ("core", "adapters", "plugins", "api")
        for path in (root / part).rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"""["'& ]pip install """, line) and "install_hint=" not in line and "``pip install" not in line
    ]
    assert found == []

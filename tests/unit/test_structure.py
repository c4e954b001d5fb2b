"""Modules stay small, and each name stands for one thing."""

from __future__ import annotations

import ast
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import corral

ROOT = Path(corral.__file__).parent
PARTS = ("core", "adapters", "plugins", "api")
MOST_LINES = 300
MEDIAN_LINES = 100


def modules() -> Iterator[Path]:
    for part in PARTS:
        yield from (file for file in (ROOT / part).rglob("*.py") if file.name != "__init__.py")


def test_no_module_is_long() -> None:
    """A module is one thought, which fits in 300 lines; half of all modules need fewer than 100."""
    lines = {file.relative_to(ROOT).as_posix(): len(file.read_text("utf-8").splitlines()) for file in modules()}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
    assert statistics.median(lines.values()) < MEDIAN_LINES


def test_no_two_public_classes_have_one_name() -> None:
    """One name means one thing: a reader who looks for a class finds only one."""
    homes: dict[str, list[str]] = defaultdict(list)
    for file in modules():
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(file.relative_to(ROOT).as_posix())
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_every_module_says_what_it_is_for() -> None:
    """The first line of a module is a sentence."""
    for file in modules():
        described = ast.get_docstring(ast.parse(file.read_text("utf-8")))
        assert described, file
        assert described.split("\n\n")[0].rstrip()[-1] in ".:", file

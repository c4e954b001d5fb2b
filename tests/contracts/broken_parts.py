"""Runs a contract's tests, directly or with pytest, to see which of them a broken part fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

__all__ = ("Outcomes", "failures", "outcomes_of", "promises")

Outcomes = Mapping[str, Mapping[str, set[str]]]
"""Names of tests, by class and by outcome: passed, failed or skipped."""


def outcomes_of(suites: str, folder: Path) -> Outcomes:
    """Runs pytest over the source of a module of tests, in `folder`, and says how each test ended."""
    (folder / "test_suites.py").write_text(suites)
    report = folder / "report.xml"
    words = ["-q", "-p", "no:cacheprovider", "-W", "error", "--rootdir", str(folder), f"--junitxml={report}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "test_suites.py"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: {"passed": set(), "failed": set(), "skipped": set()})
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = {"failure": "failed", "error": "failed", "skipped": "skipped"}
        kinds = {outcome[child.tag] for child in case if child.tag in outcome} or {"passed"}
        for kind in kinds:
            found[case.attrib["classname"].rpartition(".")[2]][kind].add(case.attrib["name"].partition("[")[0])
    return found


def promises(contract: type) -> set[str]:
    """The names of the contract's tests."""
    return {name for name in dir(contract) if name.startswith("test_")}


def failures(contract: type, part: Any, names: Collection[str] | None = None, *, fresh: bool = False) -> set[str]:
    """The names of the tests that fail for a part. Each test takes the part (or what makes it) first, and then its own
    parameters. `names` limits the tests that are run. `fresh`: `part` makes the part, a new one for each test.
    """
    failed = set()
    for name in promises(contract) if names is None else names:
        test: Any = getattr(contract(), name)
        marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
        for values in product(*(mark.args[1] for mark in marks)):
            try:
                test(part() if fresh else part, **dict(zip((mark.args[0] for mark in marks), values, strict=True)))
            except (Exception, pytest.fail.Exception):
                failed.add(name)
    return failed

"""Tests the conformance kit: a sound model passes all of it, and each broken model fails exactly one test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

from corral.plugins.testing.broken import BROKEN
from corral.plugins.testing.running_model import RunningModelContract

SOUND = "sound"

SUITE = """
import pytest
from corral.plugins.testing.broken import BROKEN, SPEC, BareRunner
from corral.plugins.testing.running_model import RunningModelContract

class Bare(RunningModelContract):
    spec = SPEC

    @pytest.fixture
    def runner(self):
        return BareRunner()

for fault in (None, *BROKEN):
    name = f"Test_{fault or 'sound'}"
    globals()[name] = type(name, (Bare,), {"load_options": {"fault": fault}})
"""

Outcomes = Mapping[str, Mapping[str, set[str]]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Names of tests by outcome, for each model: one run of pytest over all of them."""
    folder = tmp_path_factory.mktemp("kit")
    (folder / "test_broken.py").write_text(SUITE)
    report = folder / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", f"--junitxml={report}", folder],
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
        model = case.attrib["classname"].rpartition(".Test_")[2]
        for kind in kinds:
            found[model][kind].add(case.attrib["name"].partition("[")[0])
    return found


def test_a_sound_model_passes_everything(outcomes: Outcomes) -> None:
    """Every test of the suite has run; none failed or was skipped."""
    assert outcomes[SOUND] == {"passed": set(promises()), "failed": set(), "skipped": set()}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_model_fails_its_own_test_alone(outcomes: Outcomes, fault: str) -> None:
    """Exactly the test of the promise it breaks fails, for every task that includes that promise."""
    assert outcomes[fault]["failed"] == {fault}
    assert outcomes[fault]["passed"] | {fault} == set(promises())
    assert outcomes[fault]["skipped"] == set()


def test_every_promise_has_a_model_that_breaks_it() -> None:
    """For each test of the suite there is a broken model."""
    assert set(BROKEN) == set(promises())


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--corral-engine", "nobody"], "choose one of"),
        (["--corral-engine", "fake", "--corral-option", "answr=x"], "the load options of fake are"),
        (["--corral-engine", "fake", "--corral-option", "num_ctx='x'"], "Expected `int`"),
        (["--corral-engine", "fake", "--corral-option", "num_ctx"], "write KEY=VALUE"),
        (["--corral-engine", "fake", "--corral-model", "nowhere"], "no such file or folder"),
        ([], "name the engine"),
    ],
)
def test_an_engine_that_cannot_be_tried(words: list[str], complaint: str, tmp_path: Path) -> None:
    """A wrong name, option or path ends the run before any test, with an error that says what was wrong."""
    kit = ["-p", "corral.plugins.testing", "--pyargs", "corral.plugins.testing.kit"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *kit, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4
    assert complaint in done.stdout + done.stderr


def promises() -> list[str]:
    return [name for name in dir(RunningModelContract) if name.startswith("test_")]

"""Tests the conformance kit: a sound model passes all of it, and each broken model fails exactly one test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from corral.plugins.testing.broken import BROKEN
from corral.plugins.testing.running_model import RunningModelContract
from tests.contracts.broken_parts import Outcomes, outcomes_of

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


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Names of tests by outcome, for each model: one run of pytest over all of them."""
    found = outcomes_of(SUITE, tmp_path_factory.mktemp("kit"))
    return {name.removeprefix("Test_"): tests for name, tests in found.items()}


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

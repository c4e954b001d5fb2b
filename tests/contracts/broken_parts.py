"""Runs a contract's tests directly, to see which of them a broken part fails."""

from __future__ import annotations

from collections.abc import Collection
from itertools import product
from typing import Any

import pytest

__all__ = ("failures", "promises")


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

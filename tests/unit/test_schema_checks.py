"""Checks of finished answers against schemas that were written to keep a validator busy."""

from __future__ import annotations

import json
from typing import Any

import pytest

from corral.adapters.constraints.schema_checks import SchemaChecker

LARGE_PATTERNS = {str(number): {"pattern": rf"\pL{{100}}{number}"} for number in range(500)}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"properties": LARGE_PATTERNS}, "{}"),
        ({"patternProperties": {one["pattern"]: {} for one in LARGE_PATTERNS.values()}}, "{}"),
        ({"allOf": [{"$ref": "#/$defs/many"}] * 1000, "$defs": {"many": {"anyOf": [True] * 8000}}}, "1"),
        ({"patternProperties": dict.fromkeys(map(str, range(5000)), True)}, json.dumps(dict.fromkeys(range(9000)))),
        ({"$ref": "#/a", "a": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}, "1"),
        ({"$ref": "http://127.0.0.1:1/schema"}, "1"),
        ({"properties": {"a": {"$ref": "http://127.0.0.1:1/schema"}}}, "{}"),
    ],
)  # fmt: skip
def test_what_would_take_too_long_is_not_checked(schema: dict[str, Any], text: str) -> None:
    """Such a schema costs neither time nor memory nor a connection, and the answer is reported as unchecked."""
    check = SchemaChecker().check(json.dumps(schema), text)
    assert check.valid is None
    assert check.problem.startswith("not checked: ")


def test_ordinary_patterns_are_checked() -> None:
    """The limit on compiled patterns leaves room for those that people write."""
    schema = json.dumps({"pattern": r"^[\w.-]+@[\w-]+\.[a-z]{2,8}$", "maxLength": 64})
    assert SchemaChecker().check(schema, '"ada@example.org"').valid is True
    assert SchemaChecker().check(schema, '"ada"').valid is False

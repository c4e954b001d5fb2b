"""Finished answers against their schema: what is found, and what is not checked because it could take forever."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from corral.adapters.constraints.schema_checks import SchemaChecker
from corral.core.ports.format_checks import FormatCheck

PETS = {
    "type": "object",
    "properties": {"pets": {"items": {"properties": {"age": {"type": "integer", "maximum": 40}}}}},
}


def check(schema: Any, text: str) -> FormatCheck:
    return SchemaChecker().check(schema if isinstance(schema, str) else json.dumps(schema), text)


@pytest.mark.parametrize(
    ("schema", "text", "problem"),
    [
        (PETS, '{"pets": [{"age": 4}]}', None),
        (PETS, '{"pets": [{"age": 41}]}', "$.pets[0].age: the value is greater than the maximum of 40"),
        (PETS, '{"pets": [{"ag', "the answer is not complete JSON: "),
        (PETS, "", "the answer is not complete JSON: "),
        ({}, "NaN", "the answer is not complete JSON: NaN is not a JSON number"),
        ({}, "1e400", "the answer is not complete JSON: 1e400 is too large"),
        ({}, "[" * 100_000, "the answer is not complete JSON: "),
        ({"format": "date"}, '"2023-02-29"', '$: the value is not a "date"'),
        ({"not": {"const": 1}}, "1", "$: "),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "integer"}, "1", None),
        ({"pattern": "^(a|aa)+$"}, json.dumps("a" * 5000 + "b"), "$: the value does not match"),
    ],
)
def test_what_is_found(schema: Any, text: str, problem: str | None) -> None:
    """The first problem, and where it is; the text itself is not repeated."""
    found = check(schema, text)
    assert found.valid is (problem is None)
    assert found.problem.startswith(problem or "")
    assert len(found.problem) < 300


def test_values_may_be_nested_deeply() -> None:
    """As deeply as JSON can be read, and without exhausting a stack."""
    schema = {"properties": {"x": {"items": {"$ref": "#"}}}, "type": "object"}
    assert check(schema, '{"x":[' * 400 + "{}" + "]}" * 400).valid is True
    assert check(schema, '{"x":[' * 400 + "1" + "]}" * 400).valid is False


DOUBLE = {"allOf": [{"properties": {"x": {"$ref": "#/$defs/a"}}}, {"properties": {"x": {"$ref": "#/$defs/a"}}}]}


@pytest.mark.parametrize(
    ("schema", "text", "reason"),
    [
        ({"$ref": "http://127.0.0.1:1/x"}, "1", "leads out of the schema"),
        ({"properties": {"a": {"$ref": "#/nowhere"}}}, '{"a": 1}', "leads out of the schema"),
        ({"$schema": "http://127.0.0.1:1/x"}, "1", "Unknown meta-schema"),
        ({"$ref": "#"}, "1", "too complex"),
        ({"anyOf": [{"$ref": "#/anyOf/1"}, {"$ref": "#/anyOf/0"}]}, "1", "too complex"),
        ({"$defs": {"a": DOUBLE}, "$ref": "#/$defs/a"}, '{"x":' * 40 + "{}" + "}" * 40, "too complex"),
        ({"items": {"items": {"enum": list(range(500))}}}, json.dumps([[0] * 50] * 50), "too complex"),
        ({"$dynamicRef": "#x"}, "1", "$dynamicRef is not followed"),
        ({"properties": {"a": {"$id": "http://x/y"}}}, '{"a": 1}', "$id"),
        ("[" * 300 + "]" * 300, "1", "nested too deeply"),
        ({"type": "strin"}, "1", "not checked"),
        ({"pattern": "(?=a)b"}, '"b"', "not checked"),
        ({"pattern": "a{1000}{1000}"}, '"b"', "not checked"),
        ({"enum": ["x" * 70_000]}, "1", "too long"),
    ],
)
def test_what_is_not_checked(schema: Any, text: str, reason: str) -> None:
    """Nothing is fetched, and what would take too long, or overflow a stack, is not begun."""
    found = check(schema, text)
    assert found.valid is None
    assert found.problem.startswith("not checked: ")
    assert reason in found.problem


def test_without_the_validator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason says what to install."""
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    assert "jsonschema-rs>=" in check({}, "1").problem

"""What becomes of a `oneOf`: no text is written that fits two alternatives, as far as they can be told apart."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from corral.adapters.constraints.masks import GrammarMasks
from corral.adapters.constraints.schema_alternatives import with_separate_alternatives
from tests.unit.test_json_schemas import fits, masks, number

__all__ = ("masks",)

INTEGER, STRING = {"type": "integer"}, {"type": "string"}
CAT = {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": INTEGER}, "required": ["lives"]}
DOG = {"type": "object", "properties": {"kind": {"const": "dog"}, "lives": INTEGER}, "required": ["lives"]}


@pytest.mark.parametrize(
    ("alternatives", "fitting", "failing"),
    [
        ([INTEGER, STRING, {"type": "null"}], [1, "x", None], [2.5]),
        ([{"type": ["integer", "string"]}, STRING], [1], ["x"]),
        ([{"type": "integer", "minimum": 0, "maximum": 20}, {"type": "integer", "minimum": 10}], [3, 9, 21], [10, 20]),
        ([{"type": "integer", "exclusiveMinimum": 5}, {"type": "integer", "maximum": 7}], [5, 8], [6, 7]),
        ([{"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 5}], [3, 5], [4]),
        ([STRING, {"type": "string", "minLength": 3}], ["ab"], ["abc"]),
        ([{"type": "string", "maxLength": 4}, {"type": "string", "minLength": 3}], ["ab", "abcde"], ["abc"]),
        ([{"type": "string", "format": "date"}, {"type": "string", "format": "uuid"}], ["2024-02-29"], ["x"]),
        ([{"enum": [1, "a", None]}, {"enum": ["a", 2]}], [1, None, 2], ["a"]),
        ([{"enum": [1, 5, "abc"]}, {"type": "integer", "minimum": 3}], [1, "abc", 7], [5]),
        ([{"const": "yes"}, STRING], ["yess"], ["yes"]),
        ([CAT, DOG], [{"kind": "cat", "lives": 9}, {"kind": "dog", "lives": 1}], [{"lives": 1}]),
        ([number("a"), number("b")], [{"a": 1}, {"b": 1}], [{"a": 1, "b": 1}]),
        ([number("a", "b"), number("b", "c")], [{"a": 1, "b": 1}], [{"a": 1, "b": 1, "c": 1}]),
        (
            [{"type": "object", "properties": {"a": INTEGER}}, number(additionalProperties=False)],
            [{"a": 1}],
            [{}],
        ),
        ([{"type": "array", "items": INTEGER}, {"type": "array", "items": STRING}], [[1], ["a"]], [[]]),
        ([{"type": "array", "items": INTEGER, "maxItems": 2}, {"type": "array", "minItems": 2}], [[1]], [[1, 2]]),
        ([{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}], [{"kind": "cat", "lives": 9}], [{"lives": 1}]),
        ([{"anyOf": [INTEGER, STRING]}, {"anyOf": [STRING, {"type": "null"}]}], [1, None], ["x"]),
    ],
)
def test_no_text_fits_two_alternatives(
    masks: GrammarMasks, alternatives: list[Any], fitting: list[Any], failing: list[Any]
) -> None:
    """What is allowed is what JSON Schema allows, or a part of it; an independent validator agrees."""
    schema = {"$defs": {"cat": CAT, "dog": DOG}, "oneOf": alternatives}
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    for value in (*fitting, *failing):
        assert fits(masks, schema, json.dumps(value)) is (value in fitting), value
        assert validator.is_valid(value) or value not in fitting


def test_keys_beside_the_alternatives(masks: GrammarMasks) -> None:
    """They count for each alternative: exactly one of two keys, and one that is always there."""
    schema = number("id", "a", "b", required=["id"], oneOf=[{"required": ["a"]}, {"required": ["b"]}])
    assert fits(masks, schema, '{"id":1,"a":1}')
    assert fits(masks, schema, '{"id":1,"b":1}')
    assert not fits(masks, schema, '{"id":1,"a":1,"b":1}')
    assert not fits(masks, schema, '{"id":1}')


def test_alternatives_that_cannot_be_told_apart_are_reported(masks: GrammarMasks) -> None:
    """Any of them is then allowed, as in Ollama."""
    from corral.core.requests.requests import Constraint

    patterns = [{"type": "string", "pattern": "a"}, {"type": "string", "pattern": "b"}]
    [ignored] = masks(Constraint(kind="json_schema", source=json.dumps({"oneOf": patterns}))).ignored
    assert "oneOf" in ignored


def test_hostile_alternatives_are_compared_within_bounds() -> None:
    """Neither patterns that are huge when compiled nor long lists of values keep the other threads waiting: what cannot
    be compared is left out.
    """
    patterns = {str(number): {"pattern": rf"\pL{{100}}{number}"} for number in range(500)}
    made = with_separate_alternatives({"oneOf": [{"enum": [1, 2]}, {"properties": patterns}]})
    assert [one for one in made["anyOf"] if "enum" in one] == []
    lists = [{"enum": [f"{one} {other}" for other in range(100)]} for one in range(32)]
    assert with_separate_alternatives({"oneOf": lists})["anyOf"] == lists[:3]

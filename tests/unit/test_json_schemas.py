"""Which keys an object may have if a schema is the format of an answer, and which numbers are exact."""

from __future__ import annotations

import json
from typing import Any

import pytest

from corral.adapters.constraints.masks import GrammarMasks
from corral.adapters.constraints.schema_recursion import is_endless
from corral.core.errors import InvalidRequest
from corral.core.ports.tokens import Vocabulary
from corral.core.requests.answer_format import read_format
from corral.core.requests.requests import Constraint

END = 256
TWO_53 = 2**53

PET = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
OLLAMA_DOCS = {
    "type": "object",
    "properties": {"pets": {"type": "array", "items": PET}},
    "required": ["pets"],
}
# What pydantic's `model_json_schema()` writes for nested models, an optional one, an enum and a default.
PYDANTIC = {
    "$defs": {
        "Kind": {"enum": ["cat", "dog"], "title": "Kind", "type": "string"},
        "Owner": {
            "properties": {"name": {"title": "Name", "type": "string"}},
            "required": ["name"],
            "title": "Owner",
            "type": "object",
        },
    },
    "properties": {
        "kind": {"$ref": "#/$defs/Kind"},
        "legs": {"default": 4, "title": "Legs", "type": "integer"},
        "owner": {"anyOf": [{"$ref": "#/$defs/Owner"}, {"type": "null"}], "default": None},
        "extra": {"additionalProperties": {"type": "integer"}, "title": "Extra", "type": "object"},
    },
    "required": ["kind", "extra"],
    "title": "Pet",
    "type": "object",
}


def number(*names: str, **more: Any) -> dict[str, Any]:
    """A schema of an object with required integers."""
    return {"type": "object", "properties": {name: {"type": "integer"} for name in names}, "required": names, **more}


@pytest.fixture(scope="module")
def masks() -> GrammarMasks:
    pieces = (*(bytes([byte]) for byte in range(256)), b"<|end|>")
    return GrammarMasks(Vocabulary(pieces=pieces, control=frozenset({END}), ends=frozenset({END})))


def fits(masks: GrammarMasks, schema: Any, text: str) -> bool:
    """Whether the mask allows the text, and the end of the answer after it."""
    constraint = read_format(schema)
    assert constraint is not None
    mask = masks(constraint)
    for token in (*text.encode(), END):
        bits = mask.allowed()
        if bits is None or not bits[token >> 3] >> (token & 7) & 1:
            return False
        if token != END:
            mask.accept(token)
    return True


@pytest.mark.parametrize(
    ("schema", "fitting", "failing"),
    [
        (
            OLLAMA_DOCS,
            ['{"pets": []}', '{"pets":[{"name":"Luna","age":5}]}'],
            ['{"pets":[],"x":1}', '{"pets":[{"name":"Luna","age":5,"x":1}]}', '{"pets":[{"age":5,"name":"Luna"}]}'],
        ),
        (
            PYDANTIC,
            ['{"kind":"cat","extra":{}}', '{"kind":"cat","legs":3,"owner":{"name":"Ada"},"extra":{"a":1}}'],
            ['{"kind":"cat","owner":{"name":"Ada","x":1},"extra":{}}', '{"kind":"cat","extra":{},"x":1}'],
        ),
        ({"properties": {"a": {"type": "integer"}}}, ["{}", '{"a":1}'], ['{"b":1}', "1"]),
        ({"type": "object", "properties": {}}, ["{}"], ['{"a":1}']),
        ({"type": "object"}, ["{}", '{"a":{"b":1}}'], []),
        (number("a", additionalProperties=True), ['{"a":1,"b":[]}'], []),
        (number("a", additionalProperties={"type": "string"}), ['{"a":1,"b":""}'], ['{"a":1,"b":1}']),
        (number("a", additionalProperties=False), ['{"a":1}'], ['{"a":1,"b":1}']),
        (number("a", patternProperties={"^x": {"type": "integer"}}), ['{"a":1,"x1":1}'], ['{"a":1,"y":1}']),
        (number("a", unevaluatedProperties=False), ['{"a":1}'], ['{"a":1,"b":1}']),
        (number("a", unevaluatedProperties=True), ['{"a":1,"b":1}'], []),
        ({"type": "object", "properties": {}, "required": ["a"]}, ['{"a":[1]}'], ["{}", '{"a":1,"b":1}']),
        (
            {"type": "array", "prefixItems": [number("a")], "items": number("b")},
            ['[{"a":1},{"b":1}]'],
            ['[{"a":1,"b":1}]', '[{"a":1},{"b":1,"a":1}]'],
        ),
        (
            {"oneOf": [number("a"), number("b")]},
            ['{"a":1}', '{"b":1}'],
            ['{"a":1,"b":1}', '{"a":1,"c":1}'],
        ),
        (
            {"definitions": {"n": {"properties": {"n": {"$ref": "#/definitions/n"}}}}, "$ref": "#/definitions/n"},
            ['{"n":{"n":{}}}'],
            ['{"n":{"m":{}}}'],
        ),
    ],
)
def test_objects_have_the_keys_they_list(
    masks: GrammarMasks, schema: Any, fitting: list[str], failing: list[str]
) -> None:
    """At every depth, objects have the listed keys in order; others only if the schema allows them."""
    assert [text for text in fitting if not fits(masks, schema, text)] == []
    assert [text for text in failing if fits(masks, schema, text)] == []


@pytest.mark.parametrize(
    ("schema", "fitting", "failing"),
    [
        ({"allOf": [number("a"), number("b")]}, ['{"a":1,"b":1}'], ['{"a":1}', '{"a":1,"b":1,"c":1}']),
        (
            {"$defs": {"Base": number("a")}, "allOf": [{"$ref": "#/$defs/Base"}], **number("b")},
            ['{"a":1,"b":1}'],
            ['{"b":1}', '{"a":1,"b":1,"c":1}'],
        ),
        (
            {"$defs": {"Base": number("a")}, "$ref": "#/$defs/Base", **number("b")},
            ['{"a":1,"b":1}'],
            ['{"a":1,"b":1,"c":1}'],
        ),
        (
            # The same definition alone and in a combination.
            {
                "$defs": {"Base": number("a")},
                **number(),
                "properties": {
                    "alone": {"$ref": "#/$defs/Base"},
                    "more": {"allOf": [{"$ref": "#/$defs/Base"}, number("b")]},
                },
            },
            ['{"alone":{"a":1},"more":{"a":1,"b":1}}'],
            ['{"alone":{"a":1,"b":1}}', '{"more":{"a":1,"b":1,"c":1}}'],
        ),
        (
            number("k", anyOf=[number("p"), number("q")]),
            ['{"k":1,"p":1}', '{"k":1,"q":1}'],
            ['{"k":1}', '{"k":1,"p":1,"q":1}', '{"k":1,"p":1,"c":1}'],
        ),
        (
            {**number("a", "b"), "required": [], "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
            ['{"a":1}', '{"b":1}', '{"a":1,"b":1}'],
            ["{}", '{"a":1,"c":1}'],
        ),
        (
            {"type": "object", "required": ["x"], "oneOf": [number("a"), number("b")]},
            ['{"a":1,"x":1}', '{"b":1,"x":[]}'],
            ['{"a":1}', '{"a":1,"x":1,"y":1}'],
        ),
        (
            {"allOf": [{"required": ["x"]}, number("a")]},
            ['{"a":1,"x":1}'],
            ['{"a":1}', '{"a":1,"x":1,"y":1}'],
        ),
        (
            {"$defs": {"Base": number("a")}, "$ref": "#/$defs/Base", "required": ["x"]},
            ['{"a":1,"x":1}'],
            ['{"a":1}', '{"a":1,"x":1,"y":1}'],
        ),
        ({"allOf": [number("a"), {"additionalProperties": True}]}, ['{"a":1,"c":1}'], []),
        (
            {"allOf": [number("a"), {"patternProperties": {"^x": {"type": "integer"}}}]},
            ['{"a":1,"x":1}'],
            ['{"a":1,"y":1}'],
        ),
        (
            {
                "$defs": {"n": {"allOf": [number("v"), {"properties": {"next": {"$ref": "#/$defs/n"}}}]}},
                "$ref": "#/$defs/n",
            },
            ['{"v":1,"next":{"v":1}}'],
            ['{"v":1,"next":{"v":1,"w":1}}'],
        ),
    ],
)
def test_an_object_described_in_several_places_may_have_the_keys_of_all(
    masks: GrammarMasks, schema: Any, fitting: list[str], failing: list[str]
) -> None:
    """A combination is closed as a whole, so that no part of it forbids what another requires."""
    assert [text for text in fitting if not fits(masks, schema, text)] == []
    assert [text for text in failing if fits(masks, schema, text)] == []


@pytest.mark.parametrize("key", ["const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"])
@pytest.mark.parametrize(
    "value", ["9007199254740993", "-9007199254740993", "36893488147419103233", "1e300", "1e400", "-1e400"]
)
def test_a_number_that_cannot_be_exact_is_refused(masks: GrammarMasks, key: str, value: str) -> None:
    """No bound or constant beyond 2**53 is accepted, written out or with an exponent, and the error names it."""
    for source in (f'{{"{key}": {value}}}', f'{{"properties": {{"a": {{"items": {{"{key}": {value}}}}}}}}}'):
        with pytest.raises(InvalidRequest, match=f"{key}: .* cannot be enforced exactly"):
            masks(Constraint(kind="json_schema", source=source))


@pytest.mark.parametrize("value", [[TWO_53 + 1], [{"id": TWO_53 + 1}], ["a", [1, -TWO_53 - 1]]])
def test_a_number_inside_an_enum_that_cannot_be_exact_is_refused(masks: GrammarMasks, value: Any) -> None:
    """At any depth in the value."""
    with pytest.raises(InvalidRequest, match=r"enum: .* cannot be enforced exactly"):
        masks(Constraint(kind="json_schema", source=json.dumps({"enum": value})))


@pytest.mark.parametrize("key", ["minLength", "maxLength", "minItems", "maxItems"])
def test_a_count_is_a_whole_number(masks: GrammarMasks, key: str) -> None:
    """2.0 counts as 2, as in JSON Schema; counts larger than any answer are refused."""
    kind = "string" if key.endswith("Length") else "array"
    two = '"ab"' if kind == "string" else "[1,2]"
    assert fits(masks, {"type": kind, key: 2.0}, two)
    with pytest.raises(InvalidRequest):
        masks(Constraint(kind="json_schema", source=json.dumps({"type": kind, key: TWO_53 + 1})))


@pytest.mark.parametrize(
    ("schema", "fitting", "failing"),
    [
        ({"const": TWO_53}, [TWO_53], [TWO_53 - 1, TWO_53 + 1]),
        ({"enum": [TWO_53 - 1, -TWO_53]}, [TWO_53 - 1, -TWO_53], [TWO_53, TWO_53 - 2]),
        ({"type": "integer", "minimum": TWO_53}, [TWO_53, TWO_53 + 1], [TWO_53 - 1]),
        ({"type": "integer", "maximum": TWO_53}, [TWO_53, TWO_53 - 1], [TWO_53 + 1]),
        ({"type": "integer", "exclusiveMinimum": TWO_53 - 1}, [TWO_53], [TWO_53 - 1]),
        ({"type": "integer", "exclusiveMaximum": TWO_53 - 1}, [TWO_53 - 2], [TWO_53 - 1]),
        ({"type": "integer", "minimum": -TWO_53}, [-TWO_53], [-TWO_53 - 1]),
        ({"type": "integer", "exclusiveMaximum": 1 - TWO_53}, [-TWO_53], [1 - TWO_53]),
        ({"type": "integer", "multipleOf": 9973}, [3 * 9973], [3 * 9973 + 1]),
    ],
)
def test_numbers_are_held_to_exactly(masks: GrammarMasks, schema: Any, fitting: list[int], failing: list[int]) -> None:
    """The greatest numbers that are accepted, and their neighbours."""
    assert [one for one in fitting if not fits(masks, schema, str(one))] == []
    assert [one for one in failing if fits(masks, schema, str(one))] == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer"},
        {"type": ["integer", "null"]},
        {"type": "integer", "minimum": 0},
        {"type": "integer", "exclusiveMaximum": 5 * 10**15},
        {"allOf": [{"type": "integer"}, {"minimum": -5}]},
        {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "boolean"}], "$defs": {"n": {"type": "integer"}}},
    ],
)
def test_whole_numbers_have_an_end(masks: GrammarMasks, schema: Any) -> None:
    """A small model keeps writing digits: numbers without bounds have at most 16 of them."""
    assert fits(masks, schema, "9" * 15)
    assert not fits(masks, schema, "1" * 17)
    signed = "minimum" not in json.dumps(schema)
    assert fits(masks, schema, f"-{10**15}") is signed
    assert not fits(masks, schema, "-" + "1" * 17)


@pytest.mark.parametrize(
    "schema",
    [
        {"multipleOf": 999_983},
        {"multipleOf": 999.983},
        {"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]},
        {"$defs": {"a": {"multipleOf": 997}}, "allOf": [{"$ref": "#/$defs/a"}, {"multipleOf": 0.991}]},
        {"properties": {f"p{n}": {"type": "integer", "multipleOf": 997 + n} for n in range(50)}},
    ],
)
def test_multiples_that_would_take_seconds_are_refused(masks: GrammarMasks, schema: Any) -> None:
    """Their automaton has a state for each remainder, so they are refused if too large, alone or together."""
    with pytest.raises(InvalidRequest, match="multipleOf"):
        masks(Constraint(kind="json_schema", source=json.dumps(schema)))


def test_combinations_of_many_keys_stay_small(masks: GrammarMasks) -> None:
    """Many combinations of one large definition are refused before their lists of keys fill the memory."""
    large: dict[str, Any] = {"properties": {f"p{n}": {} for n in range(500)}}
    parts = {f"c{n}": {"allOf": [{"$ref": "#/$defs/large"}, number("a")]} for n in range(50)}
    with pytest.raises(InvalidRequest, match="more than 20000 keys"):
        masks(Constraint(kind="json_schema", source=json.dumps({"$defs": {"large": large}, "properties": parts})))


def test_definitions_that_lead_too_deep_are_refused(masks: GrammarMasks) -> None:
    """Combinations in a row, each referring to the next, end in one line of an error."""
    definitions: dict[str, Any] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"properties": {f"p{n}": {}}}]} for n in range(500)
    }
    schema = {"$defs": {**definitions, "d500": {}}, "$ref": "#/$defs/d0"}
    with pytest.raises(InvalidRequest, match="nested too deep"):
        masks(Constraint(kind="json_schema", source=json.dumps(schema)))


@pytest.mark.parametrize(
    ("form", "fitting", "failing"),
    [
        ("date", ["2024-02-29", "2000-02-29", "1999-12-31"], ["2023-02-29", "1900-02-29", "2024-04-31", "0000-01-01"]),
        ("time", ["23:59:59Z", "07:00:01.25+01:00"], ["23:59:60Z", "24:00:00Z", "10:00:00z", "10:00:00"]),
        (
            "date-time",
            ["2024-02-29T10:00:00Z"],
            ["2023-02-29T10:00:00Z", "2024-02-29t10:00:00Z", "2024-02-29T10:00:60Z"],
        ),
        ("email", ["ada@example.org"], ["ada", f"{'a' * 60}@example.org"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
    ],
)
def test_formats_of_texts(masks: GrammarMasks, form: str, fitting: list[str], failing: list[str]) -> None:
    """What every validator accepts, and nothing that has no end."""
    schema = {"type": "string", "format": form}
    assert [text for text in fitting if not fits(masks, schema, json.dumps(text))] == []
    assert [text for text in failing if fits(masks, schema, json.dumps(text))] == []


@pytest.mark.parametrize(
    ("schema", "longest"),
    [
        ({"pattern": "^[a-z]+$"}, 128),
        ({"pattern": "^[a-z]+$", "maxLength": 300}, 300),
        ({"pattern": "^[a-z]+$", "minLength": 200}, 200),
        ({"pattern": "^[a-z]{100,400}$"}, 400),
        ({"pattern": f"^{'(abcdefghij)' * 16}*$"}, 250),
    ],
)
def test_texts_with_a_pattern_have_an_end(masks: GrammarMasks, schema: Any, longest: int) -> None:
    """Unless the schema states one, or the pattern counts further or is long itself."""
    letters = "abcdefghij" * 60 if "abcdefghij" in schema["pattern"] else "a" * 600
    assert fits(masks, {"type": "string", **schema}, json.dumps(letters[:longest]))
    assert fits(masks, {"type": "string", **schema}, json.dumps(letters[: longest + 10])) is (longest == 250)


def test_a_dot_is_a_character_of_the_same_line(masks: GrammarMasks) -> None:
    """As in JavaScript; an escaped dot, and one in a class, are just dots."""
    for pattern, text, good in ((r"^.\.[.]$", "a..", True), (r"^.\.[.]$", "abc", False), ("^.$", "\r", False)):
        assert fits(masks, {"type": "string", "pattern": pattern}, json.dumps(text)) is good, pattern


LIST = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}


@pytest.mark.parametrize(
    "schema",
    [
        LIST,
        {**LIST, "properties": {"next": {"anyOf": [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}]}}},
        {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
        {"type": "array", "minItems": 2, "prefixItems": [{"type": "null"}, {"$ref": "#"}]},
        {
            "$defs": {
                "a": {"type": ["object"], "properties": {"b": {"$ref": "#/$defs/b"}}, "required": ["b"]},
                "b": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/a"}},
            },
            "$ref": "#/$defs/a",
        },
    ],
)
def test_a_schema_of_endless_texts_is_refused(masks: GrammarMasks, schema: Any) -> None:
    """A model would write until its limit, and never fit."""
    with pytest.raises(InvalidRequest, match="no text can satisfy it: what it requires goes on without end"):
        masks(Constraint(kind="json_schema", source=json.dumps(schema)))


@pytest.mark.parametrize(
    "schema",
    [
        {**LIST, "required": []},
        {**LIST, "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}},
        {**LIST, "type": ["object", "null"]},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "array", "minItems": 1, "prefixItems": [{"type": "null"}], "items": {"$ref": "#"}},
        {
            "$defs": {
                "a": {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}}, "required": ["b"]},
                "b": {"type": "object", "properties": {"c": {"$ref": "#/$defs/c"}}, "required": ["c"]},
                "c": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "integer"}]},
            },
            "$ref": "#/$defs/a",
        },
    ],
)
def test_a_recursive_schema_with_an_end_is_accepted(masks: GrammarMasks, schema: Any) -> None:
    """It is not mistaken for one that has only endless texts."""
    masks(Constraint(kind="json_schema", source=json.dumps(schema)))


def test_many_references_are_looked_at_in_bounded_time() -> None:
    """A chain that would take longer is left to the grammar."""
    links = {
        f"d{n}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}, "required": ["a"]}
        for n in range(2000)
    }
    assert not is_endless({"$defs": {**links, "d2000": {"$ref": "#/$defs/d0"}}, "$ref": "#/$defs/d0"})

"""Grammars as token masks over a small vocabulary: what they allow and refuse, and their limits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from corral.adapters.constraints.masks import GrammarMasks
from corral.core.errors import InvalidOption, InvalidRequest
from corral.core.ports.tokens import RequestMask, Vocabulary
from corral.core.requests.answer_format import read_format
from corral.core.requests.requests import Constraint

WORDS = (b"yes", b"no", b'{"', b'":', b"true", b"</think>", b"think>yes")
PIECES = (*(bytes([byte]) for byte in range(256)), *WORDS, b"<|call|>", b"<|end|>", b"<|over|>")
CALL, END, OVER = range(len(PIECES) - 3, len(PIECES))
IDS = {piece: index for index, piece in enumerate(PIECES)}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["children"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}, "kind": {"enum": ["a", "b"]}},
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def masks() -> GrammarMasks:
    control = frozenset({CALL, END, OVER})
    return GrammarMasks(Vocabulary(pieces=PIECES, control=control, ends=frozenset({END, OVER})))


def schema(value: Any, **fields: Any) -> Constraint:
    return Constraint(kind="json_schema", source=json.dumps(value), **fields)


def spelt(text: str) -> list[int]:
    return list(text.encode())


def allowed(mask: RequestMask) -> set[int]:
    bits = mask.allowed()
    if bits is None:
        return set(range(len(PIECES)))
    assert len(bits) == (len(PIECES) + 7) // 8
    return {index for index in range(len(PIECES)) if bits[index >> 3] >> (index & 7) & 1}


def takes(mask: RequestMask, tokens: Sequence[int]) -> bool:
    """Whether the mask allows all the tokens, and then an end."""
    for token in tokens:
        if token not in allowed(mask):
            return False
        mask.accept(token)
    return {END, OVER} <= allowed(mask)


@pytest.mark.parametrize(
    ("constraint", "fitting", "failing"),
    [
        (Constraint(kind="regex", source="(ab)+/?"), ("ab", "abab/"), ("", "a", "ba", "ab//")),
        (Constraint(kind="gbnf", source='root ::= "yes" | "no" [0-9]+\n'), ("yes", "no17"), ("no", "maybe")),
        (Constraint(kind="lark", source='start: "a" b\nb: /[xy]/ | "(" b ")"'), ("ax", "a((y))"), ("a", "a((y)")),
        (schema(TREE), ('{"children":[{"children": []}]}',), ("{}", '{"children":[1]}')),
        (
            schema(PERSON),
            ('{"name":"Ä\\n","age":0,"kind":"a"}', '{"name": "", "age": 12, "kind": "b"}'),
            (
                '{\n  "name": "",\n  "age": 12,\n  "kind": "b"\n}',
                '{"name" :"","age":12,"kind":"b"}',
                '{"name":"x"}',
                '{"name":"x","age":-1,"kind":"a"}',
                '{"name":"x","age":1,"kind":"c"}',
                '{"name":"x","x":1}',
            ),
        ),
        (read_format("json"), ("{}", '{"a":[1,null,{"b":"c"}]}'), ("[]", "1", '{"a"}', "{}{}", "{   }")),
        (read_format({}), ("[]", "-1.5e3", '"x"'), ("yes",)),
    ],
)
def test_what_fits_a_grammar_passes_and_nothing_else(
    masks: GrammarMasks, constraint: Constraint, fitting: Sequence[str], failing: Sequence[str]
) -> None:
    """A text that fits is allowed to its end, any other is not."""
    for text in fitting:
        assert takes(masks(constraint), spelt(text)), text
    for text in failing:
        assert not takes(masks(constraint), spelt(text)), text


def test_tokens_of_several_bytes_count_as_their_text(masks: GrammarMasks) -> None:
    """A word token is allowed where its letters would be; control tokens never count as text."""
    mask = masks(Constraint(kind="regex", source="yes.*"))
    assert allowed(mask) == {ord("y"), IDS[b"yes"]}
    mask.accept(IDS[b"yes"])
    assert CALL not in allowed(mask)
    assert {IDS[b"no"], IDS[b"</think>"], END, OVER} <= allowed(mask)


def test_a_complete_answer_can_only_end(masks: GrammarMasks) -> None:
    """If the grammar allows no more text, every end token of the model is allowed and nothing else."""
    mask = masks(schema({"const": "no"}))
    for token in (ord('"'), IDS[b"no"], ord('"')):
        assert not {END, OVER} & allowed(mask)
        mask.accept(token)
    assert allowed(mask) == {END, OVER}
    mask.accept(OVER)


def test_a_forbidden_token_is_an_error(masks: GrammarMasks) -> None:
    """Choosing a token that was not allowed is an error."""
    mask = masks(Constraint(kind="regex", source="a"))
    with pytest.raises(InvalidRequest):
        mask.accept(ord("b"))


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        (schema({"type": "strin"}), "JSON schema cannot be used: Invalid type: strin"),
        (schema({"$ref": "#/nowhere"}), "'/nowhere' does not exist"),
        (schema({"$ref": "http://localhost/x"}), "not present in a registry"),
        (schema({"$ref": "#"}), "no text can satisfy it"),
        (schema({"properties": {"a": False}, "required": ["a"], "type": "object"}), "required property 'a'"),
        (schema({"type": "string", "pattern": "(?=a)b"}), "look-around"),
        (schema([]), "a JSON object is expected"),
        (Constraint(kind="json_schema", source="{"), "JSON schema cannot be used"),
        (schema({"enum": ["x" * 70_000]}), "at most 65536"),
        (schema({"patternProperties": {f"^{n}$": {} for n in range(17)}}), "17 patternProperties"),
        (Constraint(kind="regex", source="a("), "regular expression cannot be used: at character 2: unclosed group"),
        (Constraint(kind="regex", source=r"(a)\1"), "backreferences are not supported"),
        (Constraint(kind="gbnf", source='root ::= "a" | b'), "GBNF grammar cannot be used: Rule 'b' not found"),
        (Constraint(kind="gbnf", source='a ::= "a"'), "No 'root' rule"),
        (
            Constraint(kind="lark", source='start: "a" b'),
            'Lark grammar cannot be used: line 1, column 8: unknown name: "b"',
        ),
        (Constraint(kind="lark", source=""), "no start rule"),
    ],
)
def test_a_wrong_grammar_is_told_what_is_wrong(masks: GrammarMasks, constraint: Constraint, said: str) -> None:
    """The error names the kind of grammar and the reason, in one line."""
    with pytest.raises(InvalidRequest, match=said) as caught:
        masks(constraint)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"type": "array", "items": {}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "format": "path"}, "Unknown format: path"),
        ({"not": {"type": "string"}, "if": {}}, '"not"'),
        ({"oneOf": [{"type": "string"}, {"type": "string", "pattern": "x"}]}, "oneOf"),
    ],
)
def test_what_is_not_held_to_is_told(masks: GrammarMasks, value: Any, said: str) -> None:
    """Keywords without effect are reported; mere annotations are not."""
    [ignored] = masks(schema(value)).ignored
    assert ignored.startswith("format: ")
    assert said in ignored
    assert masks(schema({"type": "string", "title": "t", "x-mine": 1, "format": "date"})).ignored == ()


def test_a_schema_cannot_loosen_json(masks: GrammarMasks) -> None:
    """llguidance's own settings inside a schema are ignored."""
    loose = {"type": "array", "items": {"type": "integer"}, "x-guidance": {"item_separator": ";"}}
    assert not takes(masks(schema(loose)), spelt("[1;2]"))
    assert takes(masks(schema(loose)), spelt("[1,2]"))


def _chain(link: Any) -> Constraint:
    """A chain of as many references as a source can contain."""
    count = 60_000 // len(json.dumps({"10000": link("10000")}))
    definitions = {str(n): link(f"#/$defs/{n + 1}") for n in range(count)}
    return schema({"$defs": {**definitions, str(count): {"type": "null"}}, "$ref": "#/$defs/0"})


def _nested(depth: int) -> Any:
    value: Any = {"type": "string"}
    for _ in range(depth):
        value = {"type": "array", "items": value}
    return value


NASTY = {
    "references in a row": _chain(lambda target: {"$ref": target}),
    "references through items": _chain(lambda target: {"items": {"items": {"$ref": target}}}),
    "references through properties": _chain(lambda target: {"properties": {"a": {"$ref": target}}}),
    "deep nesting": schema(_nested(60)),
    "deeper nesting": Constraint(kind="json_schema", source='{"items":' * 6000 + "{}" + "}" * 6000),
    "a large enum": schema({"enum": [f"value {n}" for n in range(4500)]}),
    "thousands of properties": schema({"properties": {f"p{n}": {} for n in range(2000)}}),
    "long strings": schema({"type": "string", "minLength": 10**9, "maxLength": 2 * 10**9}),
    "long arrays": schema(
        {"type": "array", "minItems": 10**9, "items": {"type": "array", "minItems": 10**9, "items": {}}}
    ),
    "merging that doubles": schema(
        {"allOf": [{"anyOf": [{"properties": {f"p{n}": {"const": one}}} for one in (1, 2)]} for n in range(30)]}
    ),
    "definitions that double": schema(
        {
            "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)} | {"d30": {}},
            "$ref": "#/$defs/d0",
        }
    ),
    "an exponential pattern": schema({"type": "string", "pattern": "^((((a{1,100}){1,100}){1,100}){1,100}){1,100}$"}),
    "a pattern of many states": schema({"type": "string", "pattern": ".*a.{50}b.{50}c"}),
    "a catastrophic regex": Constraint(kind="regex", source="(x+x+)+y"),
    "a deep regex": Constraint(kind="regex", source="(" * 5000 + "a" + ")" * 5000),
    "a deep Lark rule": Constraint(kind="lark", source="start: " + "(" * 5000 + '"a"' + ")" * 5000),
    "Lark rules in a row": Constraint(
        kind="lark", source="start: a0\n" + "".join(f"a{n}: a{n + 1}\n" for n in range(2000)) + 'a2000: "x"'
    ),
    "Lark that repeats repeats": Constraint(kind="lark", source='start: (("a" "b"){1,60000} "c"){1,60000}'),
    "deep GBNF": Constraint(kind="gbnf", source="root ::= " + "(" * 5000 + '"a"' + ")" * 5000),
    "GBNF rules in a row": Constraint(
        kind="gbnf", source="root ::= r0\n" + "".join(f"r{n} ::= r{n + 1}\n" for n in range(700)) + 'r700 ::= "a"'
    ),
}


@pytest.mark.parametrize("name", NASTY)
def test_a_hostile_grammar_does_no_harm(masks: GrammarMasks, name: str) -> None:
    """It becomes a mask or one of our errors, within limited time and memory; the same holds for each step."""
    with suppress(InvalidRequest):
        mask = masks(NASTY[name])
        for _ in range(100):
            # The greatest id but ends: letters rather than punctuation, so that it goes on.
            mask.accept(max(allowed(mask) - {END, OVER}, default=END))


def test_a_grammar_too_complex_to_follow_ends_its_answer(masks: GrammarMasks) -> None:
    """Reaching a limit midway is an error of the request."""
    mask = masks(Constraint(kind="lark", source='start: ((("a"{1,1000}){1,1000}){1,1000}){1,1000}'))
    with pytest.raises(InvalidRequest, match="Lark grammar cannot be used"):
        takes(mask, [ord("a")] * 100)


def test_a_model_without_an_end_takes_no_format() -> None:
    """A constraint is refused if the model has no end token."""
    with pytest.raises(InvalidRequest, match="no token that ends"):
        GrammarMasks(Vocabulary(pieces=PIECES))


@pytest.mark.parametrize("value", [None, ""])
def test_no_format(value: Any) -> None:
    """Without a format there is no constraint."""
    assert read_format(value) is None


@pytest.mark.parametrize(
    ("value", "quoted"),
    [("xml", r'"\"xml\""'), ([1, "a"], r'"[1, \"a\"]"'), (True, '"true"'), (3, '"3"')],
)
def test_a_format_is_json_or_a_schema(value: Any, quoted: str) -> None:
    """Anything else is refused in Ollama's words."""
    with pytest.raises(InvalidOption) as caught:
        read_format(value)
    assert str(caught.value) == f'invalid format: {quoted}; expected "json" or a valid JSON Schema object'


def test_a_schema_that_json_cannot_say() -> None:
    """Any value may be passed to the library."""
    with pytest.raises(InvalidOption, match=r"invalid format: .*bytes"):
        read_format({"const": b"x"})


def test_a_number_that_json_cannot_say() -> None:
    """Infinity is not a JSON number, but 1e400 in a caller's JSON becomes infinity when it is decoded."""
    with pytest.raises(InvalidRequest, match=r"format: .*range"):
        read_format({"maximum": float("inf")})


@pytest.mark.parametrize(
    ("value", "fitting", "failing"),
    [
        ({"type": "gbnf", "grammar": 'root ::= "a"+'}, ["a", "aaa"], ["", "b"]),
        ({"type": "lark", "grammar": "start: /[0-9]+/"}, ["12"], ["x"]),
        ({"type": "regex", "pattern": "yes|no"}, ["yes", "no"], ["yesno", "maybe"]),
        ({"type": "choice", "choices": ["no", "no way", '"größe"\n']}, ["no", "no way", '"größe"\n'], ["n", "way"]),
    ],
)
def test_a_format_may_be_a_grammar(masks: GrammarMasks, value: Any, fitting: list[str], failing: list[str]) -> None:
    """Its `type` is none that JSON Schema has, so that it is never taken for one."""
    constraint = read_format(value)
    assert constraint is not None
    for text in (*fitting, *failing):
        assert takes(masks(constraint), spelt(text)) is (text in fitting), text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"type": "gbnf"}, 'a gbnf needs its text in "grammar"'),
        ({"type": "lark", "grammar": ""}, 'a lark needs its text in "grammar"'),
        ({"type": "regex", "grammar": "x"}, "a regex has no 'grammar'"),
        ({"type": "regex", "pattern": 1}, 'a regex needs its text in "pattern"'),
        ({"type": "choice"}, "choices must be a list of texts"),
        ({"type": "choice", "choices": []}, "choices must be a list of texts"),
        ({"type": "choice", "choices": ["a", 1]}, "choices must be a list of texts"),
        ({"type": "choice", "choices": ["a"] * 1001}, "1001 choices; at most 1000"),
    ],
)
def test_a_grammar_is_complete(value: Any, said: str) -> None:
    """What is missing or not known is named."""
    with pytest.raises(InvalidRequest, match=said):
        read_format(value)


def test_requests_at_the_same_time_share_one_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a grammar that works as well as of one that does not; later requests find the one that works."""
    made = GrammarMasks(Vocabulary(pieces=PIECES, control=frozenset({CALL, END, OVER}), ends=frozenset({END, OVER})))
    compiled: list[str] = []
    together = threading.Barrier(4)
    compile_one = made._compile

    def counted(constraint: Constraint) -> Any:
        compiled.append(constraint.source)
        while made._compiling and len(waiting) < 3:
            time.sleep(0.001)
        return compile_one(constraint)

    waiting: list[int] = []

    class Counted(Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            waiting.append(1)
            return super().result(timeout)

    monkeypatch.setattr(made, "_compile", counted)
    monkeypatch.setattr("corral.adapters.constraints.masks.Future", Counted)

    def ask(source: str) -> bool:
        together.wait(10)
        try:
            return takes(made(Constraint(kind="regex", source=source)), spelt("no"))
        except InvalidRequest:
            return False

    for source, works in (("no", True), ("no(", False)):
        waiting.clear()
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(ask, [source] * 4)) == [works] * 4
    assert compiled == ["no", "no("]
    made(Constraint(kind="regex", source="no"))
    assert compiled == ["no", "no("]


@pytest.mark.parametrize(
    ("value", "most", "text"),
    [
        ({"type": "array", "items": {"type": "array"}}, 12, b"[[[[[[[[[[["),
        ({"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"]}, 20, b'{"a": {"x": [1, [2'),
        ({"type": "string"}, 9, b'"aaaaaaaaaaaaaaaaaaa'),
        ({"type": "object"}, 16, b'{"aaaaaaaaaaaaaaaaaaa'),
    ],
)
@pytest.mark.parametrize("spent", [0, 3])
def test_json_is_complete_within_the_limit(masks: GrammarMasks, value: Any, most: int, text: bytes, spent: int) -> None:
    """A model that would go on is led to the end; what it has spent on thinking counts."""
    mask = masks(schema(value))
    for _ in range(spent):
        mask.spend()
    mask.limit(most + spent)
    said: list[int] = []
    for wanted in (*text, *b" " * most):
        token = wanted if wanted in allowed(mask) else min(allowed(mask))
        if token in (END, OVER):
            break
        mask.accept(token)
        said.append(token)
    assert len(said) < most
    json.loads(b"".join(PIECES[token] for token in said))


def test_a_limit_that_is_far_away_changes_nothing(masks: GrammarMasks) -> None:
    """Every token that the grammar allows stays allowed."""
    free, limited = masks(schema({"type": "object"})), masks(schema({"type": "object"}))
    limited.limit(4000)
    for token in b'{"a": [1, {"b": "c':
        assert allowed(free) == allowed(limited)
        free.accept(token)
        limited.accept(token)

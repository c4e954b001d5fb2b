"""JSON under a limit of tokens: it is what it would be without one if that fits, and the longest that fits if not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from corral.adapters.constraints.masks import GrammarMasks
from corral.core.ports.tokens import RequestMask, Vocabulary
from corral.core.requests.requests import Constraint

WORDS = ('{"', '": "', '", "', '"}', '"]', "Rome", "Oslo", "the ", "null", "<call>", "</call>")
END = 256
PIECES = (*(bytes([byte]) for byte in range(256)), b"<|end|>", *(word.encode() for word in WORDS))
LAST_RESORT = (END, *range(255, -1, -1), *range(257, len(PIECES)))
ITEM = {"type": "object", "properties": {"k": {"type": "string"}}, "required": ["k"], "additionalProperties": False}
TRIP = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"enum": ["c", "fahrenheit"]},
        "mail": {"type": "string", "format": "email"},
        "stops": {"type": "array", "items": ITEM},
    },
    "required": ["city", "unit", "mail"],
    "additionalProperties": False,
}
TRIP_TEXT = {
    "city": 'the "old" Rome\né',
    "unit": "fahrenheit",
    "mail": "ada@a.org",
    "stops": [{"k": "v"}, {"k": "Oslo"}],
}


def lark(value: Any) -> Constraint:
    source = f'start: "<call>" body "</call>" ("\\n<call>" body "</call>")?\nbody: %json {json.dumps(value)}'
    return Constraint(kind="lark", source=source, subject="tools", complete=True)


@pytest.fixture(scope="module")
def masks() -> GrammarMasks:
    return GrammarMasks(Vocabulary(pieces=PIECES, control=frozenset({END}), ends=frozenset({END})))


def spelt(text: bytes) -> list[int]:
    """The tokens of a text, each as long as possible, with the one that ends it."""
    tokens: list[int] = []
    while text:
        token_id = max(
            (id for id, piece in enumerate(PIECES) if text.startswith(piece)), key=lambda id: len(PIECES[id])
        )
        tokens.append(token_id)
        text = text[len(PIECES[token_id]) :]
    return [*tokens, END]


def answered(mask: RequestMask, wanted: list[int], limit: int) -> tuple[bytes, int]:
    """The text of a model that wants to say just one thing, as long as it may, and how many tokens it took."""
    mask.limit(limit)
    said: list[int] = []
    follows = True
    while len(said) < limit:
        bits = mask.allowed()
        assert bits is not None
        wish = wanted[len(said)] if follows else END
        follows = follows and bool(bits[wish >> 3] >> (wish & 7) & 1)
        token_id = wish if follows else next(id for id in LAST_RESORT if bits[id >> 3] >> (id & 7) & 1)
        said.append(token_id)
        if token_id == END:
            break
        mask.accept(token_id)
    return b"".join(PIECES[id] for id in said if id != END), len(said) if said[-1] == END else limit + 1


CASES = [
    (Constraint(kind="json_schema", source=json.dumps(TRIP)), json.dumps(TRIP_TEXT, ensure_ascii=False), "", ""),
    (Constraint(kind="json_schema", source='{"type": "object"}'), '{"a": {"b": [1, -2.5, null]}, "c": 17}', "", ""),
    (lark(ITEM), '<call>{"k": "the Rome to the Oslo"}</call>', "<call>", "</call>"),
]


@pytest.mark.parametrize(("constraint", "text", "before", "after"), CASES)
def test_every_limit(masks: GrammarMasks, constraint: Constraint, text: str, before: str, after: str) -> None:
    """From the shortest text on, each limit gives whole JSON that is no longer than it; from the length of the model's
    own text on, it is just that; and what is cut short is told.
    """
    wanted = spelt(text.encode())
    shortest = next(n for n in range(1, 99) if answered(masks(constraint), wanted, n)[1] <= n)
    assert shortest < len(wanted) - 3
    kept = 0
    for limit in (*range(shortest, len(wanted) + 3), len(wanted) + 20, len(wanted) + 64):
        mask = masks(constraint)
        said, count = answered(mask, wanted, limit)
        assert count <= limit, (limit, said)
        inner = said.decode().removeprefix(before).removesuffix(after)
        json.loads(inner)
        if limit >= len(wanted):
            assert said == text.encode(), limit
        elif said != text.encode():
            assert mask.warnings or inner == "{}", (limit, said)
        same = next((at for at, (one, other) in enumerate(zip(said, text.encode(), strict=False)) if one != other), 999)
        assert same >= kept - 3, (limit, said)
        kept = max(kept, same)


def test_a_text_is_as_long_as_the_limit_has_room_for(masks: GrammarMasks) -> None:
    """One more token of the limit is one more of the text."""
    constraint = Constraint(kind="json_schema", source=json.dumps(ITEM))
    wanted = spelt(b'{"k": "' + b"x" * 200 + b'"}')
    for limit in (9, 10, 70, 100, 150):
        mask = masks(constraint)
        said, count = answered(mask, wanted, limit)
        assert count == limit
        assert len(json.loads(said)["k"]) == limit - 5
        assert mask.warnings == (
            "format: the limit of tokens was near, so the JSON was completed early: what it says may be cut short",
        )


def test_a_whole_text_has_no_warning(masks: GrammarMasks) -> None:
    """Of a limit that was not reached, nothing is said."""
    constraint = Constraint(kind="json_schema", source=json.dumps(ITEM))
    wanted = spelt(b'{"k": "Rome"}')
    for limit in (len(wanted) + 1, 4000):
        mask = masks(constraint)
        assert answered(mask, wanted, limit) == (b'{"k": "Rome"}', len(wanted))
        assert mask.warnings == ()


def test_a_second_call_begins_only_where_it_fits(masks: GrammarMasks) -> None:
    """Otherwise the answer ends after the first."""
    text = b'<call>{"k": "Rome"}</call>\n<call>{"k": "Oslo"}</call>'
    wanted = spelt(text)
    whole = [answered(masks(lark(ITEM)), wanted, limit) for limit in range(9, len(wanted) + 1)]
    assert {said.count(b"<call>") for said, _ in whole} == {1, 2}
    assert all(said.count(b"<call>") == said.count(b"</call>") for said, _ in whole)
    assert whole[-1] == (text, len(wanted))

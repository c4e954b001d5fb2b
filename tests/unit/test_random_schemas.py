"""Random JSON Schemas: whatever a model chooses among the allowed tokens, the finished text fits the schema.

CORRAL_RANDOM_SCHEMAS sets how many are tried.
"""

from __future__ import annotations

import json
import os
import random

import pytest

from corral.adapters.constraints.masks import GrammarMasks
from corral.adapters.constraints.schema_checks import SchemaChecker
from corral.core.ports.tokens import RequestMask, Vocabulary
from corral.core.requests.requests import Constraint
from tests.contracts.random_schemas import random_schema

COUNT = int(os.environ.get("CORRAL_RANDOM_SCHEMAS", "25"))
LIMIT = 600
END = 256
WORDS = ('", "', '"}', "}}", "]}", '": ', "null", "true", "12", " the", "red", "cat", "2024-", "@")


@pytest.fixture(scope="module")
def masks() -> GrammarMasks:
    pieces = (*(bytes([byte]) for byte in range(256)), b"<|end|>", *(word.encode() for word in WORDS))
    return GrammarMasks(Vocabulary(pieces=pieces, control=frozenset({END}), ends=frozenset({END})))


def written(masks: GrammarMasks, source: str, draw: random.Random) -> str | None:
    """A text of tokens drawn at random from those that are allowed; None if it does not end."""
    mask = masks(Constraint(kind="json_schema", source=source))
    mask.limit(LIMIT)
    assert not [one for one in mask.ignored if "oneOf" not in one]
    text = b""
    for _ in range(LIMIT):
        bits = mask.allowed() or b""
        allowed = [token_id for token_id in range(END + 1 + len(WORDS)) if bits[token_id >> 3] >> (token_id & 7) & 1]
        plain = [token_id for token_id in allowed if 0x20 <= token_id < 0x7F or token_id >= END]
        token_id = draw.choice(plain or allowed)
        if token_id == END:
            return None if mask.ignored else text.decode()
        mask.accept(token_id)
        text += WORDS[token_id - END - 1].encode() if token_id > END else bytes([token_id])
    return None


def tokens_to_the_end(mask: RequestMask, limit: int, draw: random.Random | None) -> int | None:
    """How many tokens a text takes that is drawn at random and ends as late as it may, or of the lowest tokens; None if
    it does not end within `limit`.
    """
    for count in range(1, limit + 1):
        bits = mask.allowed() or b""
        allowed = [id for id in range(END + 1 + len(WORDS)) if bits[id >> 3] >> (id & 7) & 1]
        more = [id for id in allowed if id != END]
        if not more or (draw is None and END in allowed):
            return count
        mask.accept(min(more) if draw is None else draw.choice(more))
    return None


def test_whatever_is_written_ends_in_time(masks: GrammarMasks) -> None:
    """If the limit has room for a text that takes the quickest way, every text ends within it."""
    for seed in range(COUNT):
        constraint = Constraint(kind="json_schema", source=json.dumps(random_schema(seed)))
        quickest = masks(constraint)
        quickest.limit(1)
        shortest = tokens_to_the_end(quickest, LIMIT, None)
        assert shortest is not None
        for limit in (shortest, shortest + 10):
            mask = masks(constraint)
            mask.limit(limit)
            assert tokens_to_the_end(mask, limit, random.Random(seed)) is not None, (seed, limit)


def test_what_is_written_fits(masks: GrammarMasks) -> None:
    """An independent validator agrees; nearly all texts end within the limit."""
    unfinished = []
    for seed in range(COUNT):
        source = json.dumps(random_schema(seed))
        text = written(masks, source, random.Random(seed))
        if text is None:
            unfinished.append(seed)
            continue
        check = SchemaChecker().check(source, text)
        if check.problem.endswith("is too large"):  # 1e400 is JSON and a number, though no program can read it
            continue
        assert check.valid, (seed, check.problem, source, text)
    assert len(unfinished) <= max(1, COUNT // 20), unfinished

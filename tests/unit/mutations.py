"""Mutates bytes as fuzzers do: reproducible from a number."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ("mutated", "mutated_json")

_NUMBERS: tuple[int, ...] = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    9,
    12,
    13,
    31,
    32,
    63,
    64,
    127,
    128,
    255,
    256,
    4096,
    65535,
    65536,
    1 << 20,
)
_NUMBERS += ((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_MOST = 6  # mutations of one input


def mutated(seeds: Sequence[bytes], number: int, limit_bytes: int | None = None) -> bytes:
    """The `number`-th mutation of one of these inputs, cut to `limit_bytes`."""
    dice = random.Random(number)
    data = bytearray(dice.choice(seeds))
    for _ in range(dice.randint(1, _MOST)):
        dice.choice(_WAYS)(data, dice, seeds)
    return bytes(data[:limit_bytes])


def mutated_json(seeds: Sequence[bytes], values: Sequence[Any], number: int) -> bytes:
    """The `number`-th mutation of one of these JSON objects: a few of its values are replaced, removed or repeated."""
    dice = random.Random(number)
    document = json.loads(dice.choice(seeds))
    for _ in range(dice.randint(1, 2)):
        place: Any = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = dice.choice(keys)
            if isinstance(place[key], dict | list) and dice.random() < 0.9:
                place = place[key]
                continue
            way = dice.randrange(4)
            if way == 0:
                del place[key]
            elif way == 1 and isinstance(place, list):
                place.append(place[key])
            else:
                place[key] = dice.choice(values)
            break
    return json.dumps(document).encode()


def _flip(data: bytearray, dice: random.Random, seeds: Sequence[bytes]) -> None:
    if data:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def _number(data: bytearray, dice: random.Random, seeds: Sequence[bytes]) -> None:
    """A number at which arithmetic may go wrong, as 1, 4 or 8 bytes."""
    code, size = dice.choice((("<B", 1), ("<I", 4), ("<Q", 8)))
    if len(data) >= size:
        place = dice.randrange(len(data) - size + 1)
        data[place : place + size] = struct.pack(code, dice.choice(_NUMBERS) & ((1 << 8 * size) - 1))


def _insert(data: bytearray, dice: random.Random, seeds: Sequence[bytes]) -> None:
    place = dice.randrange(len(data) + 1)
    data[place:place] = dice.randbytes(dice.randint(1, 16))


def _remove(data: bytearray, dice: random.Random, seeds: Sequence[bytes]) -> None:
    place = dice.randrange(len(data) + 1)
    del data[place : place + dice.randint(1, 32)]


def _repeat(data: bytearray, dice: random.Random, seeds: Sequence[bytes]) -> None:
    start = dice.randrange(len(data) + 1)
    place = dice.randrange(len(data) + 1)
    data[place:place] = data[start : start + dice.randint(1, 200)]


def _splice(data: bytearray, dice: random.Random, seeds: Sequence[bytes]) -> None:
    other = dice.choice(seeds)
    data[dice.randrange(len(data) + 1) :] = other[dice.randrange(len(other) + 1) :]


def _cut(data: bytearray, dice: random.Random, seeds: Sequence[bytes]) -> None:
    del data[dice.randrange(len(data) + 1) :]


_WAYS: tuple[Callable[[bytearray, random.Random, Sequence[bytes]], None], ...] = (
    *(_flip, _flip, _number, _number, _number),
    *(_insert, _remove, _repeat, _splice, _cut),
)

"""Writes the keys of a prompt's cells as bytes of one width, so that prompts are compared as memory."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence

__all__ = ("WIDTH", "KeyPacker", "common_length", "portable_keys")

WIDTH = 8
"""The bytes of one key."""
_LARGEST = 1 << 48
_STRANGE = 1 << 62


def common_length(left: bytes, right: bytes) -> int:
    """How many keys two packed prompts have in common at their beginning."""
    low, high = 0, min(len(left), len(right)) // WIDTH
    step = 64
    while low < high:
        end = min(high, low + step)
        if left[low * WIDTH : end * WIDTH] == right[low * WIDTH : end * WIDTH]:
            low, step = end, step * 2
        elif end - low == 1:
            break
        else:
            high, step = end, (end - low) // 2
    return low


class KeyPacker:
    """Two packed prompts are equal if and only if their keys are.

    A key beyond 48 bits (the digest of an image) is represented by a number that this packer has given to it, for as
    long as a prompt that has the key is held.
    """

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._keys: dict[int, int] = {}
        self._held: Counter[int] = Counter()
        self._next = _LARGEST

    def pack(self, keys: Sequence[int]) -> bytes:
        """The keys, to look them up: large ones that no held prompt has are like nothing else."""
        try:
            packed = array("q", keys)
        except OverflowError:
            numbers = self._numbers
            packed = array("q", [key if -_LARGEST < key < _LARGEST else numbers.get(key, _STRANGE) for key in keys])
        return packed.tobytes()

    def hold(self, keys: Sequence[int]) -> bytes:
        """The keys of a prompt that is kept until `release`."""
        for key in {key for key in keys if not -_LARGEST < key < _LARGEST}:
            if key not in self._numbers:
                self._numbers[key], self._keys[self._next] = self._next, key
                self._next += 1
            self._held[key] += 1
        return self.pack(keys)

    def release(self, packed: bytes) -> None:
        """Forget a prompt that `hold` has packed."""
        for number in {number for number in array("q", packed) if number >= _LARGEST}:
            key = self._keys[number]
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key], self._keys[number], self._numbers[key]

    def unpack(self, packed: bytes) -> list[int]:
        """The keys of a held prompt."""
        keys = array("q", packed).tolist()
        if any(key >= _LARGEST for key in keys):
            keys = [self._keys[key] if key >= _LARGEST else key for key in keys]
        return keys

    def portable(self, packed: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        """A held prompt for other processes: its keys, with the places of large ones among those that follow."""
        words = array("q", packed)
        places: dict[int, int] = {}
        for at, word in enumerate(words):
            if word >= _LARGEST:
                words[at] = _LARGEST + places.setdefault(word, len(places))
        large = (self._keys[number] for number in places)
        return words.tobytes(), tuple(key.to_bytes(key.bit_length() // 8 + 1, "big", signed=True) for key in large)


def portable_keys(packed: bytes, large: Sequence[bytes]) -> list[int]:
    """The keys that `KeyPacker.portable` was given. Raises `ValueError` if they are none."""
    if len(packed) % WIDTH:
        raise ValueError("a part of a key")
    keys = [int.from_bytes(key, "big", signed=True) for key in large]
    words = array("q", packed).tolist()
    if any(word >= _LARGEST + len(keys) for word in words):
        raise ValueError("a key that is not there")
    return [keys[word - _LARGEST] if word >= _LARGEST else word for word in words]

"""The tree that finds the longest beginning that a prompt has in common with others."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest

from corral.adapters.engine_kit.prefixes.packed_keys import KeyPacker, common_length
from corral.adapters.engine_kit.prefixes.prefix_tree import PrefixTree

IMAGE, OTHER_IMAGE = -(1 << 200) - 5, -(1 << 200) - 6
ALPHABET = (1, 2, -3, 300, IMAGE, OTHER_IMAGE)


def common(left: Sequence[int], right: Sequence[int]) -> int:
    shorter = min(len(left), len(right))
    return next((at for at in range(shorter) if left[at] != right[at]), shorter)


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_what_a_scan_finds(seed: int) -> None:
    """Among random prompts that have much in common, with images, each lookup agrees with a comparison of all."""
    dice = random.Random(seed)
    packer, tree, prompts = KeyPacker(), PrefixTree[list[int]](), list[list[int]]()
    for _ in range(40):
        base = dice.choice(prompts) if prompts and dice.random() < 0.7 else []
        prompt = base[: dice.randrange(len(base) + 1)] + dice.choices(ALPHABET, k=dice.randrange(1, 200))
        if prompt not in prompts:
            prompts.append(prompt)
            tree.add(packer.hold(prompt), prompt)
    for _ in range(40):
        base = dice.choice(prompts)
        query = base[: dice.randrange(len(base) + 1)] + dice.choices(ALPHABET[:5], k=dice.randrange(30))
        packed = packer.pack(query)
        shared, found = tree.longest(packed)
        assert shared == max(common(query, prompt) for prompt in prompts)
        assert bool(found) == (shared > 0)
        assert all(common(query, prompt) == shared for prompt in found)
        beginnings = [prompt for prompt in prompts if query[: len(prompt)] == prompt]
        assert list(tree.beginnings_of(packed)) == sorted(beginnings, key=len, reverse=True)
        assert sorted(tree.beginning_with(packed)) == sorted(one for one in prompts if one[: len(query)] == query)
    for left in range(len(prompts), 0, -1):
        assert len(tree) == left
        packed = packer.pack(prompts.pop())
        tree.remove(packed)
        packer.release(packed)
    assert tree.longest(packer.pack([1, 2])) == (0, [])


def test_ten_thousand_long_prompts() -> None:
    """The longest match of a prompt of 15,000 tokens among ten thousand entries, at least half of which have thousands
    of tokens in common with it, takes about a millisecond of processor time."""
    dice = random.Random(1)
    packer, tree = KeyPacker(), PrefixTree[int]()
    conversation = [dice.randrange(49_000) for _ in range(15_000)]
    for number in range(10_000):
        length = dice.randrange(15_000) if number % 50 == 0 else number % 600
        tree.add(packer.hold([*conversation[:length], number, -1 - number]), number)
    took = []
    for _ in range(20):
        length = dice.randrange(10_000, 15_000)
        prompt = conversation[:length] + [dice.randrange(49_000) for _ in range(15_000 - length)]
        began = time.thread_time()
        shared, _ = tree.longest(packer.pack(prompt))
        took.append(time.thread_time() - began)
        assert shared > 9_000
    assert min(took) < 0.01, took  # ten times what it takes; a scan takes a thousand times as long


def test_large_keys_are_forgotten() -> None:
    """The numbers that stand for images are given up with the last prompt that has them, and never mistaken."""
    packer = KeyPacker()
    first, second = packer.hold([1, IMAGE, IMAGE]), packer.hold([OTHER_IMAGE, IMAGE])
    assert packer.unpack(first) == [1, IMAGE, IMAGE]
    assert packer.unpack(second) == [OTHER_IMAGE, IMAGE]
    packer.release(first)
    assert packer.unpack(second) == [OTHER_IMAGE, IMAGE]
    assert common_length(packer.pack([OTHER_IMAGE, IMAGE - 100]), second) == 1
    packer.release(second)
    assert common_length(packer.pack([IMAGE]), second) == 0

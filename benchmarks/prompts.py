"""Prompts of a given length, the same in every run: a seed determines the words, and other seeds give other words."""

from __future__ import annotations

import random

__all__ = ("QUESTIONS", "SYSTEM_WORDS", "chat", "next_turn", "words")

# About 400 tokens, for most vocabularies.
SYSTEM_WORDS = 310

_NOUN_LIST = """river engine garden letter market winter teacher bridge window forest camera doctor island kitchen
    mountain paper signal station ticket valley weather village compass lantern harbour orchard"""
_VERB_LIST = """carries follows opens measures paints repairs watches answers brings draws finds holds keeps learns
    moves remembers shows turns visits writes"""
_OTHER_LIST = """a the slowly old every quiet because while before under bright small never often and but with without
    near green seven early between deep"""
_NOUNS, _VERBS, _OTHERS = _NOUN_LIST.split(), _VERB_LIST.split(), _OTHER_LIST.split()

QUESTIONS = tuple(
    f"{verb} {thing}."
    for verb in ("Explain how to build", "Describe the history of", "Write a short story about", "List five facts on")
    for thing in ("a bridge", "the sea", "bread", "a telescope", "winter", "a small town", "the moon", "paper")
)
"""32 questions for the exactness test."""


def words(count: int, seed: int) -> str:
    """This many words of made-up English."""
    chance = random.Random(seed)
    chosen: list[str] = []
    while len(chosen) < count:
        group = (_OTHERS, _NOUNS, _VERBS, _OTHERS, _NOUNS)[len(chosen) % 5]
        chosen.append(chance.choice(group))
        if len(chosen) % 15 == 0:
            chosen[-1] += "."
    return " ".join(chosen)


def chat(system: str, user: str) -> str:
    """A conversation written in ChatML, so that every server reads the same tokens."""
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


def next_turn(prompt: str, answer: str, user: str) -> str:
    """The conversation of `chat`, with its answer and the next question."""
    return f"{prompt}{answer}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"

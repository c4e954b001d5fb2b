"""What tiny tokenizers learn from, and texts that show how a tokenizer cuts."""

from __future__ import annotations

from pathlib import Path

__all__ = ("HARD_TEXTS", "LEARNT", "WRITINGS")

_SENTENCES = (Path(__file__).parent.parent / "data" / "sentences.txt").read_text("utf-8")[:2000]

LEARNT = (
    f"{_SENTENCES}\n\n  2024 2024 20245 1999 1999 12345\n\n\n\tdon't DON'T we'll  \n"
    "Ärger über größere Öfen, naïve cafés. Ärger über größere Öfen. «Да» 日本語の文。日本語の文。\n" * 2
)
"""Enough for merges across every border that some pre-tokenizer has: digits, contractions, runs of spaces and lines."""

HARD_TEXTS = (
    "",
    " ",
    "Hello, World!",
    "hello  world   \n\n\n  again\t\tand\r\nagain ",
    "In 2024 there were 12345678 of them, 3.14 or 1,000,000; x=2024y",
    "I don't, WE'LL, they've, it's IT'S 's 'S",
    "Ärger über größere Öfen; naïve cafés, Åse",
    "日本語の文。中文、한국어 «Да»",
    "😀 👍🏽 zero\u200bwidth \u00a0nbsp \ufeffbom",
    "def f(x):\n    return x**2  # comment\n\n\tdone...!!!???",
    "<b>tags</b> {json: [1, 2]} #hash @at a_b-c/d\\e",
    "supercalifragilisticexpialidocious " * 3,
    "▁already▁escaped",
)

WRITINGS = (
    "हिन्दी में लिखा",
    "தமிழ் மொழி",
    "한국어 문장",
    "Tiếng Việt",
    "İstanbul, ẞ, ΌΣΟΣ",
    "שָׁלוֹם",
    "ไทย ภาษา",
    "a\u0301 \u0344x \u212b ﬁ",
)
"""Letters that Unicode composes, and marks that take a space of their own, which are not accents."""

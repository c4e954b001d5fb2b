"""How untrusted texts are shown at a terminal."""

from __future__ import annotations

import unicodedata

import pytest

from corral.core.wording.printable import one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nof two lines", "plain\ttext\nof two lines"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\u009b2J"),
        ("a\x7fb\x00", r"a\u007fb\x00"),
        ("gone\rover", r"gone\rover"),
        ("Windows\r\nlines\r\n", "Windows\nlines\n"),
        ("safe\u202efugg.exe", "safe\\u202efugg.exe"),
        ("name\udcff", "name\\udcff"),
        ("größe 模型 😀 שלום", "größe 模型 😀 שלום"),
    ],
)
def test_control_characters_become_visible(text: str, shown: str) -> None:
    """Escapes show as text, and everything that people write stays as it is."""
    assert printable(text) == shown


def test_no_control_character_is_left() -> None:
    """Of all of Unicode's control characters, only newline and tab pass."""
    everything = "".join(map(chr, range(0x3000)))
    left = {character for character in printable(everything) if unicodedata.category(character) == "Cc"}
    assert left == {"\n", "\t"}
    printable("".join(map(chr, range(0xD800, 0xE000)))).encode()


def test_one_line_is_one_line() -> None:
    """With any kind of line break."""
    text = one_line("a\nb\r\nc\td\u2028e\x85f\x0bg\u200f")
    assert text == r"a\nb\r\nc\td\u2028e\u0085f\x0bg\u200f"
    assert len(text.splitlines()) == 1

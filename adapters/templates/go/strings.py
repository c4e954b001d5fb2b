"""Strings of Go, which are bytes, with what people typed between marks.

Functions see them without the marks; what they return has the marks again (`corral.core.requests.typed_text`).
"""

from __future__ import annotations

from collections.abc import Callable

from corral.core.go.quoting import quote
from corral.core.requests.typed_text import marked, stretches, unmarked

__all__ = (
    "byte_length",
    "can_backquote",
    "cut_bytes",
    "cut_characters",
    "quoted_ascii",
    "rewritten",
    "to_bytes",
    "valid_text",
)


def to_bytes(text: str) -> bytes:
    """The bytes of a string, without marks."""
    return unmarked(text).encode(errors="surrogateescape")


def byte_length(text: str) -> int:
    text = unmarked(text)
    return len(text) if text.isascii() else len(text.encode(errors="surrogateescape"))


def cut_bytes(text: str, start: int, end: int) -> str:
    """The bytes from `start` up to `end`, still marked."""
    if text.isascii():
        return text[start:end]
    pieces = []
    position = 0
    for piece, is_marked in stretches(text):
        data = piece.encode(errors="surrogateescape")
        kept = data[max(start - position, 0) : max(end - position, 0)].decode(errors="surrogateescape")
        pieces.append(marked(kept) if is_marked and kept else kept)
        position += len(data)
    return "".join(pieces)


def cut_characters(text: str, count: int) -> str:
    """The first characters, still marked."""
    if len(text) <= count:
        return text
    pieces = []
    for piece, is_marked in stretches(text):
        kept = piece[:count]
        count -= len(kept)
        pieces.append(marked(kept) if is_marked and kept else kept)
    return "".join(pieces)


def rewritten(text: str, rewrite: Callable[[str], str]) -> str:
    """The string with `rewrite` applied to what is marked and to what is not; marks stay around what they were."""
    pieces = stretches(text)
    if all(not is_marked for _, is_marked in pieces):
        return rewrite(unmarked(text))
    return "".join([marked(rewrite(piece)) if is_marked else rewrite(piece) for piece, is_marked in pieces])


def valid_text(text: str, instead: str = "\ufffd") -> str:
    """The string with bytes that belong together joined, and another text for each byte that is not UTF-8."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        pass
    else:
        return text
    joined = text.encode(errors="surrogateescape").decode(errors="surrogateescape")
    return "".join([instead if 0xDC80 <= ord(character) <= 0xDCFF else character for character in joined])


def can_backquote(text: str) -> bool:
    """Whether the string can be written between back quotes."""
    return not any(
        character in "`\x7f\ufeff" or (character < " " and character != "\t") or 0xDC80 <= ord(character) <= 0xDCFF
        for character in text
    )


def quoted_ascii(text: str) -> str:
    """What stands between quotes, with escapes for all but ASCII."""
    return "".join([
        quote(character)[1:-1]
        if ord(character) < 0x80 or 0xDC80 <= ord(character) <= 0xDCFF
        else f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
        for character in text
    ])  # fmt: skip

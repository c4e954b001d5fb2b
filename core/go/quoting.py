"""Quoted strings and characters, as Go programs show them in errors."""

from __future__ import annotations

__all__ = ("quote_character", "quote_string")

_LONGEST = 200  # characters; longer strings are cut in errors
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\b": r"\b", "\f": r"\f", "\a": r"\a", "\v": r"\v"}


def quote_string(text: str) -> str:
    """Quotes like Go's ``time`` package: characters other than printable ASCII are shown as the bytes of UTF-8."""
    quoted = []
    for character in text[:_LONGEST]:
        if character in '"\\':
            quoted.append("\\" + character)
        elif " " <= character < "\x7f":
            quoted.append(character)
        else:
            quoted.extend(f"\\x{byte:02x}" for byte in character.encode(errors="surrogatepass"))
    return '"' + "".join(quoted) + '"'


def quote_character(character: str) -> str:
    """Quotes an unexpected character like ``encoding/json``: its first byte, in single quotes."""
    character = chr(character.encode()[0])
    if character == "'":
        return r"'\''"
    if character == '"':
        return "'\"'"
    if character == "\\":
        return r"'\\'"
    named = _NAMED.get(character)
    if named is None and not character.isprintable():
        named = f"\\x{ord(character):02x}" if ord(character) < 0x80 else f"\\u{ord(character):04x}"
    return f"'{named or character}'"

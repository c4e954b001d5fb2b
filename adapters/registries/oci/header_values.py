"""Reads what servers state in headers: numbers and links, in time that does not grow with what they send."""

from __future__ import annotations

__all__ = ("next_link", "stated_number")

_MOST_DIGITS = 18  # below 64 bits; Python refuses to convert thousands of digits, after a while
_LONGEST_LINKS = 16 * 1024


def stated_number(text: str | None) -> int | None:
    """None if it is no decimal number, or one that no file's size can be."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else None


def next_link(header: str) -> str | None:
    """The target of the link whose relation is ``next`` (RFC 8288); None if there is none."""
    for link in header[:_LONGEST_LINKS].split("<")[1:]:
        target, closed, parameters = link.partition(">")
        if not closed:
            continue
        for parameter in parameters.split(";"):
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "rel" and "next" in value.strip(' \t,"').lower().split():
                return target
    return None

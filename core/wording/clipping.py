"""Cuts untrusted text to a bounded length, for logs and errors."""

from __future__ import annotations

from corral.core.wording.printable import one_line

__all__ = ("clipped", "clipped_line")


def clipped(text: str, limit: int) -> str:
    """`text`, or if it is longer, its first `limit` characters and its length."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def clipped_line(text: str, limit: int = 200) -> str:
    """`clipped`, on one line, with control characters escaped."""
    return one_line(clipped(text, limit))

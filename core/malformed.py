"""What decoding bytes from elsewhere may raise."""

from __future__ import annotations

import msgspec

__all__ = ("MALFORMED",)

MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""For ``except``: msgspec leaves texts that are no UTF-8, and values nested too deep, to Python's own errors."""

"""Reads a value that somebody typed on a command line: TOML, or what people write instead."""

from __future__ import annotations

import tomllib
from typing import Any

__all__ = ("toml_value",)

_WORDS = {"true": True, "false": False}


def toml_value(text: str) -> Any:
    """The value of a text in TOML; ``true`` and ``false`` may be in any case, and other texts stand for themselves."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        text = text.strip()
        return _WORDS.get(text.lower(), text)

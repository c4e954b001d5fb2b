"""Decodes the images and sounds of a request without holding up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

__all__ = ("beside_the_loop",)

T = TypeVar("T")

_MANY_CHARACTERS = 1 << 20  # which take about a millisecond


async def beside_the_loop(decode: Callable[[], T], characters: int) -> T:
    """What `decode` returns. It runs in a thread if it decodes so many characters that the loop would notice."""
    return decode() if characters < _MANY_CHARACTERS else await asyncio.to_thread(decode)

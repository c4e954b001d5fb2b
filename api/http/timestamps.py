"""Timestamps in the format of Ollama's API: RFC 3339 with nanoseconds."""

from __future__ import annotations

import time
from datetime import datetime

__all__ = ("local_timestamp", "utc_now")

_NANOSECONDS = 1_000_000_000
_last_second = (-1, "")


def utc_now() -> str:
    """The current time in UTC. Streams need it for every line, so the part up to the second is cached for a second."""
    global _last_second
    second, fraction = divmod(time.time_ns(), _NANOSECONDS)
    known, text = _last_second
    if known != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        _last_second = (second, text)
    return f"{text}{fraction:09d}Z"


def local_timestamp(epoch_s: float) -> str:
    """A time with the server's own UTC offset, as in ``modified_at`` and ``expires_at``."""
    second, microseconds = divmod(round(epoch_s * 1e6), 1_000_000)
    moment = datetime.fromtimestamp(second).astimezone()
    offset = moment.strftime("%z")
    zone = "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:5]}"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{microseconds:06d}000{zone}"

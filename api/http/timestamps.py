"""Times as Ollama's clients read them: RFC 3339 with nanoseconds."""

from __future__ import annotations

import time
from datetime import datetime

__all__ = ("local_timestamp", "utc_now")

_NANOSECONDS = 1_000_000_000
_last_second = (-1, "")


def utc_now() -> str:
    """Now, in UTC. A stream asks for every line, so the part up to the second is made once a second."""
    global _last_second
    second, fraction = divmod(time.time_ns(), _NANOSECONDS)
    known, text = _last_second
    if known != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        _last_second = (second, text)
    return f"{text}{fraction:09d}Z"


def local_timestamp(epoch_s: float) -> str:
    """A moment with the server's own offset, as ``modified_at`` and ``expires_at`` have it."""
    second, microseconds = divmod(round(epoch_s * 1e6), 1_000_000)
    moment = datetime.fromtimestamp(second).astimezone()
    offset = moment.strftime("%z")
    zone = "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:5]}"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{microseconds:06d}000{zone}"

"""Server-sent events, in which the APIs of OpenAI and Anthropic stream."""

from __future__ import annotations

__all__ = ("DONE", "EVENT_STREAM", "event")

EVENT_STREAM = b"text/event-stream"
"""The content type of a stream of events."""

DONE = b"data: [DONE]\n\n"
"""What ends a stream of OpenAI's completions."""


def event(data: bytes, name: bytes = b"") -> bytes:
    """One event. `data` is JSON, which has no line breaks."""
    if name:
        return b"".join((b"event: ", name, b"\ndata: ", data, b"\n\n"))
    return b"".join((b"data: ", data, b"\n\n"))

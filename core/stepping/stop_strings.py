"""Finds stop strings in text that arrives in pieces, and holds back what may become one."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ("StopStrings",)


class StopStrings:
    """Looks for any of several stop strings, wherever the pieces are cut.

    If several match, the one that is complete first wins, and of those the longest: the result is the same as if the
    characters arrived one by one.
    """

    __slots__ = ("_held", "_stops", "found")

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = ""
        """The stop string that was reached; empty before."""

    def push(self, text: str) -> tuple[str, bool]:
        """Return the text that can be sent now, and whether a stop was reached (then the text ends before it)."""
        text = self._held + text
        first: tuple[int, int] | None = None  # the end and the start of a stop string
        held = 0
        for stop in self._stops:
            start = text.find(stop)
            if start >= 0:
                place = (start + len(stop), start)
                first = place if first is None else min(first, place)
            elif stop[0] in text:
                held = max(held, _begun(stop, text))
        if first is not None:
            self._held = ""
            end, start = first
            self.found = text[start:end]
            return text[:start], True
        cut = len(text) - held
        self._held = text[cut:]
        return text[:cut], False

    def flush(self) -> str:
        """Return the text held back. It belongs to the answer if the generation ends for another reason."""
        held, self._held = self._held, ""
        return held


def _begun(stop: str, text: str) -> int:
    """Return how many characters at the end of the text could begin the stop string."""
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0 and not stop.startswith(text[start:]):
        start = text.find(stop[0], start + 1)
    return len(text) - start if start >= 0 else 0

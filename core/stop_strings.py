"""Finding stop strings in text that arrives in pieces, holding back what may become one."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ("StopStrings",)


class StopStrings:
    """Looks for any of several stop strings, wherever the pieces happen to be cut.

    Where several would match, the one completed first wins, and of those the longest: the answer is what it would be
    if characters came one by one.
    """

    __slots__ = ("_held", "_prefixes", "_stops")

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        beginnings = {stop[:length] for stop in self._stops for length in range(1, len(stop))}
        self._prefixes = tuple(sorted(beginnings, key=len, reverse=True))
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """What may go out now, and whether a stop has been reached (then it is the text up to the stop)."""
        text = self._held + text
        end, start = min(
            ((found + len(stop), found) for stop in self._stops if (found := text.find(stop)) >= 0),
            default=(-1, -1),
        )
        if end >= 0:
            self._held = ""
            return text[:start], True
        held = 0
        if text.endswith(self._prefixes):
            held = next(len(prefix) for prefix in self._prefixes if text.endswith(prefix))
            self._held = text[-held:]
            return text[:-held], False
        self._held = ""
        return text, False

    def flush(self) -> str:
        """The text held back, for when the generation ends otherwise: it belongs to the answer."""
        held, self._held = self._held, ""
        return held

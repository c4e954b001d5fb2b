"""What decoding foreign data may raise, and what msgspec's errors say."""

from __future__ import annotations

import re

import msgspec

from corral.core.values import Value

__all__ = ("MALFORMED", "Mistyped", "mistyped")

MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""For ``except``: msgspec raises Python's own errors for invalid UTF-8 and for values that are nested too deeply."""

_TEXT = re.compile(r"(?P<message>.*?)(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_GIVEN = re.compile(r"got `(\w+)`")
_QUOTED = re.compile(r"Invalid enum value (['\"].*)", re.DOTALL)


class Mistyped(Value, frozen=True, kw_only=True):
    """What a `msgspec.ValidationError` says.

    `message` is its text without the path; `path` is empty for the value itself, or reads like ``.options.stop[...]``.
    `given` is msgspec's name of the type that was found (``str``, ``int``, ``array``), None if the type was right.
    `quoted` is the text that the message repeats because it is none of those allowed; None if it repeats no text.
    """

    message: str
    path: str
    given: str | None
    quoted: str | None


def mistyped(error: msgspec.ValidationError) -> Mistyped:
    """Parses the text of an error, the only place where msgspec gives these parts."""
    match = _TEXT.fullmatch(str(error))
    assert match is not None
    given = _GIVEN.search(match["message"])
    quoted = _QUOTED.fullmatch(match["message"])
    return Mistyped(
        message=match["message"],
        path=match["path"] or "",
        given=given[1] if given else None,
        quoted=quoted[1] if quoted else None,
    )

"""What an error about something missing says about plugins that were not loaded."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ("remarks",)

_MOST = 3


def remarks(left_out: Mapping[str, str], name: str | None = None) -> tuple[str, ...]:
    """Sentences for a remedy. `left_out` has one for each plugin that was not loaded, by its name. If one has the
    missing name, only its sentence is used; otherwise the first few are.
    """
    if name is not None and name in left_out:
        return (left_out[name],)
    sentences = tuple(left_out.values())
    more = len(sentences) - _MOST
    return sentences[:_MOST] + ((f"corral plugins shows {more} more",) if more > 0 else ())

"""The tags between which a model writes its thinking."""

from __future__ import annotations

from corral.core.values import Value

__all__ = ("ThinkTags", "think_tags_in")


class ThinkTags(Value, frozen=True, kw_only=True):
    """The tags before and after the thinking in an answer."""

    start: str
    end: str


_USUAL = ThinkTags(start="<think>", end="</think>")


def think_tags_in(template: str) -> ThinkTags | None:
    """The tags that a chat template mentions, None if it has none."""
    return _USUAL if _USUAL.start in template and _USUAL.end in template else None

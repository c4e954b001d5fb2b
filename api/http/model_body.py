"""What request bodies that name a model have in common: its fields, and limits on everything that is not text."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import msgspec

from corral.api.http.errors import ApiError
from corral.api.http.go_json import Body

__all__ = ("MOST_INPUTS", "MOST_MESSAGES", "MOST_TOOLS", "LimitedBody", "ModelBody", "require_few")

MOST_INPUTS = 16_384
MOST_MESSAGES = 10_000
MOST_TOOLS = 2048
_MOST_OPTIONS = 1024
_NAMES = ("model", "name", "source", "destination")
_LONGEST_NAME = 1024  # characters; the longest valid name has 601


class LimitedBody(Body, frozen=True, kw_only=True):
    """Refuses names and options that are far too long."""

    def check(self) -> None:
        for field in _NAMES:
            if len(getattr(self, field, "")) > _LONGEST_NAME:
                raise ApiError(400, "invalid model name", param=field)
        require_few("options", getattr(self, "options", {}), _MOST_OPTIONS)


class ModelBody(LimitedBody, frozen=True, kw_only=True):
    """The fields of all requests to a model."""

    model: str = ""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    keep_alive: Any = None

    @property
    def in_background(self) -> bool:
        """Whether the answer goes on without the request, and waits for its own turn."""
        return False


def require_few(field: str, values: Sized, limit: int) -> None:
    """Raises `ApiError` if `values` has more entries than that."""
    if len(values) > limit:
        raise ApiError(400, f"{field} has {len(values)} entries; at most {limit} are accepted", param=field)

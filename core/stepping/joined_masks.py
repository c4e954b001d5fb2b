"""Combines several masks of a request into one."""

from __future__ import annotations

from collections.abc import Sequence

from corral.core.errors import InvalidRequest
from corral.core.ports.tokens import RequestMask

__all__ = ("JoinedMasks",)


class JoinedMasks:
    """A `RequestMask` that allows a token if all of its masks do. Raises `InvalidRequest` if no token is left."""

    def __init__(self, masks: Sequence[RequestMask]) -> None:
        self._masks = tuple(masks)

    @property
    def ignored(self) -> tuple[str, ...]:
        return tuple(name for mask in self._masks for name in mask.ignored)

    def allowed(self) -> bytes | None:
        limits = [bits for mask in self._masks if (bits := mask.allowed()) is not None]
        if len(limits) < 2:
            return limits[0] if limits else None
        common = int.from_bytes(limits[0], "little")
        for bits in limits[1:]:
            common &= int.from_bytes(bits, "little")
        if not common:
            raise InvalidRequest("format and thinking budget contradict each other: no token satisfies both")
        return common.to_bytes(len(limits[0]), "little")

    def accept(self, token_id: int) -> None:
        for mask in self._masks:
            mask.accept(token_id)

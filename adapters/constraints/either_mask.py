"""The mask of a text that follows one of two grammars: which one, the text itself decides as it grows."""

from __future__ import annotations

from corral.core.errors import InvalidRequest
from corral.core.stepping.thinking_mask import AnswerMask

__all__ = ("EitherMask",)


class EitherMask:
    """An `AnswerMask`. It allows what one of the masks allows, and forgets those that the text has left."""

    def __init__(self, *masks: AnswerMask) -> None:
        self._masks = masks
        self._ignored = tuple(dict.fromkeys(one for mask in masks for one in mask.ignored))
        self._allowed: tuple[bytes | None, ...] | None = None

    @property
    def ignored(self) -> tuple[str, ...]:
        return self._ignored

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one for mask in self._masks for one in mask.warnings))

    def limit(self, tokens: int) -> None:
        for mask in self._masks:
            mask.limit(tokens)

    def spend(self) -> None:
        for mask in self._masks:
            mask.spend()

    def allowed(self) -> bytes | None:
        if len(self._masks) == 1:
            return self._masks[0].allowed()
        self._allowed = tuple(mask.allowed() for mask in self._masks)
        together = 0
        for bits in self._allowed:
            if bits is None:
                return None
            together |= int.from_bytes(bits, "little")
        return together.to_bytes(max(map(len, filter(None, self._allowed))), "little")

    def accept(self, token_id: int) -> None:
        if len(self._masks) > 1:
            found = self._allowed or tuple(mask.allowed() for mask in self._masks)
            self._masks = tuple(
                mask for mask, bits in zip(self._masks, found, strict=True) if bits is None or _has(bits, token_id)
            )
            self._allowed = None
        if not self._masks:
            raise InvalidRequest(f"token {token_id} was chosen, which the format does not allow")
        for mask in self._masks:
            mask.accept(token_id)


def _has(bits: bytes, token_id: int) -> bool:
    return token_id >> 3 < len(bits) and bool(bits[token_id >> 3] >> (token_id & 7) & 1)

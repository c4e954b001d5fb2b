"""Keeps keys and header values from the settings out of errors and logs, even if a server repeats them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from corral.core.errors import CorralError

__all__ = ("Secrets",)

_MASK = "[hidden]"
_SHORTEST = 4
"""In characters. Shorter values are no secrets, and hiding them would damage ordinary words."""


class Secrets:
    """The secret values that are sent to one address."""

    def __init__(self, values: Iterable[str]) -> None:
        found = {value.strip() for value in values}
        spellings = {spelling for value in found for spelling in (value, json.dumps(value)[1:-1])}
        # The longest first, since one secret may be part of another.
        self._spellings = sorted((one for one in spellings if len(one) >= _SHORTEST), key=len, reverse=True)

    def hidden_in(self, text: str) -> str:
        """`text` with every secret masked, including one that is cut off at its end, as in shortened texts."""
        for secret in self._spellings:
            text = text.replace(secret, _MASK)
        for secret in self._spellings:
            for length in range(min(len(secret) - 1, len(text)), _SHORTEST - 1, -1):
                if text.endswith(secret[:length]):
                    return text[:-length] + _MASK
        return text

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Errors raised inside leave with their secrets masked, and without the causes that still hold them."""
        try:
            yield
        except CorralError as error:
            message = self.hidden_in(error.message)
            remedy = None if error.remedy is None else self.hidden_in(error.remedy)
            if (message, remedy) == (error.message, error.remedy):
                raise
            raise type(error)(message, remedy) from None

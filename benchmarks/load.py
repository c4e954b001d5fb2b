"""How much a case asks a server for, and with which prompts."""

from __future__ import annotations

import msgspec

__all__ = ("Load",)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """`run` and `round` change every prompt, so that no server finds prompts of earlier rounds, or of an earlier run of
    the benchmark, in a cache. `pause_s` is how long the user of a conversation reads.
    """

    streams: int
    tokens: int
    round: int
    run: int = 0
    pause_s: float = 1.0

    def seed(self, number: int) -> int:
        """The seed of the prompt with this number."""
        return 1_000_003 * self.run + 1000 * self.round + number

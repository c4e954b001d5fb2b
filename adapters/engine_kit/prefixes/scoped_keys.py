"""Keeps what was computed for some callers from being reused for others."""

from __future__ import annotations

import hashlib

__all__ = ("scoped_keys",)

_BYTES = 6
_HIGHEST_BIT = 1 << 47


def scoped_keys(keys: list[int], scope: str) -> list[int]:
    """The keys of a prompt's cells for a scope (`Principal.prefix_scope`): prompts of different scopes have no prefix
    in common, since the first key is another one in each. It is no token, and the same in other processes.
    """
    if not scope or not keys:
        return keys
    digest = hashlib.blake2b(f"{keys[0]} {scope}".encode(), digest_size=_BYTES).digest()
    return [int.from_bytes(digest, "big") | _HIGHEST_BIT, *keys[1:]]

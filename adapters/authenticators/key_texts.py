"""How a key looks, and what is kept of it: ``corral-ID-SECRET``, of which the file has the id and a hash."""

from __future__ import annotations

import hashlib
import re
import secrets

__all__ = ("KEY_PREFIX", "hash_of", "id_of", "new_key")

KEY_PREFIX = "corral-"
"""Scanners for leaked secrets find keys by it: ``corral-[0-9a-f]{12}-[0-9a-f]{64}``."""

_ID_BYTES = 6
_SECRET_BYTES = 32
_KEY = re.compile(r"corral-([0-9a-f]{12})-[0-9a-f]{64}")


def new_key() -> str:
    """A key with 256 bits of chance."""
    return f"{KEY_PREFIX}{secrets.token_hex(_ID_BYTES)}-{secrets.token_hex(_SECRET_BYTES)}"


def id_of(key: str) -> str | None:
    """The part of a key that is no secret; None for what is no key."""
    found = _KEY.fullmatch(key)
    return found[1] if found else None


def hash_of(key: str) -> str:
    """SHA-256, in hex. Slow hashes protect secrets that people think of: nobody can try 2 to the 256 keys, and a
    request should not cost a tenth of a second of processor time."""
    return hashlib.sha256(key.encode()).hexdigest()

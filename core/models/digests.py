"""SHA-256 digests, as manifests and stores write them."""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from corral.core.errors import InvalidDigest

__all__ = ("Digest", "digest_of", "mentioned_digests", "parse_digest", "short_digest")

Digest = NewType("Digest", str)
"""``sha256:`` and 64 lower-case hex digits. Created by `parse_digest` and `digest_of` only."""


_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


_MENTIONED = re.compile(rb"sha256[:-]([0-9a-fA-F]{64})")


def parse_digest(text: str) -> Digest:
    """Accepts ``sha256:…`` and ``sha256-…`` in any case. Raises `InvalidDigest` for anything else."""
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise InvalidDigest(f"invalid digest format: {text[:100]!r}", "a digest is sha256: and 64 hex digits")
    return Digest("sha256:" + match[1].lower())


def digest_of(data: bytes) -> Digest:
    """The digest of these bytes."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def short_digest(digest: str) -> str:
    """The first twelve hex digits, as Ollama shows them. ``sha256:`` may be missing."""
    return digest.removeprefix("sha256:")[:12]


def mentioned_digests(manifest: bytes) -> frozenset[Digest]:
    """Every digest that appears anywhere in a manifest of any format: what a deletion must not touch."""
    return frozenset(Digest("sha256:" + match[1].decode().lower()) for match in _MENTIONED.finditer(manifest))

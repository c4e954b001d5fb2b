"""Rejects request heads that the parser accepts but that are ambiguous or unsupported."""

from __future__ import annotations

from collections.abc import Iterable

from corral.core.values import Value

__all__ = ("HeadFacts", "check_head")


class HeadFacts(Value, frozen=True, kw_only=True):
    """What a head says about the body that follows: that it is chunked, or its length."""

    is_chunked: bool
    content_length: int


def check_head(version: str, headers: Iterable[tuple[bytes, bytes]]) -> HeadFacts | tuple[int, str]:
    """What the head announces, or the status and text to reject it with."""
    if version not in ("1.0", "1.1"):
        return 505, f"HTTP {version} is not supported; use HTTP/1.1"
    values: dict[bytes, list[bytes]] = {b"host": [], b"transfer-encoding": [], b"content-length": []}
    for name, value in headers:
        if name in values:
            values[name].append(value)
    hosts, codings, lengths = values.values()
    if len(hosts) > 1:
        return 400, "the request has more than one Host header"
    if not hosts and version == "1.1":
        return 400, "the request has no Host header"
    if codings and (len(codings) > 1 or codings[0].strip().lower() != b"chunked"):
        return 501, "chunked is the only supported transfer encoding"
    return HeadFacts(is_chunked=bool(codings), content_length=int(lengths[0]) if lengths else 0)

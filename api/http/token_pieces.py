"""How the bytes of single tokens are written in JSON, as llama-server writes them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

__all__ = ("Piece", "pieces_in_json")

Piece = str | list[int]
"""The text of a token, or its bytes as numbers if they are not UTF-8 by themselves."""

_FEW = 4096


async def pieces_in_json(pieces: Sequence[bytes]) -> list[Piece]:
    """Each of the pieces. Many of them are read in a thread, so that the event loop does not wait."""
    return _all(pieces) if len(pieces) <= _FEW else await asyncio.to_thread(_all, pieces)


def _all(pieces: Sequence[bytes]) -> list[Piece]:
    return [_one(piece) for piece in pieces]


def _one(piece: bytes) -> Piece:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)

"""The base of every value that crosses a port: frozen, keyword-only, tagged, compact on the wire."""

from __future__ import annotations

import msgspec

__all__ = ("Value",)


class Value(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """A frozen Struct whose wire form carries its class name, so unions of values decode by themselves.

    A subclass repeats ``frozen=True, kw_only=True``: msgspec does not inherit them for type checkers.
    """

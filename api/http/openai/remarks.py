"""Tells clients what of their request has had no effect, and what happened to their answer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from corral.core.requests.outputs import Finished, Started

__all__ = ("IGNORED_HEADER", "Remarks")

IGNORED_HEADER = b"x-corral-ignored"
"""The header that lists ignored fields and options, separated by commas."""

_MOST_NAMES, _LONGEST_NAME = 64, 64
_UNSAFE = re.compile(r"[^A-Za-z0-9_.: -]")


class Remarks:
    """What has been ignored so far: fields of the request, and then the options that the engine does not have."""

    def __init__(self, ignored: Iterable[str]) -> None:
        self._ignored = list(ignored)

    def started(self, output: Started) -> None:
        self._ignored += output.ignored_options

    def headers(self) -> list[tuple[bytes, bytes]]:
        if not self._ignored:
            return []
        names = [_UNSAFE.sub("?", name)[:_LONGEST_NAME] for name in dict.fromkeys(self._ignored)]
        return [(IGNORED_HEADER, ", ".join(names[:_MOST_NAMES]).encode())]

    def of(self, finished: Finished) -> dict[str, Any]:
        """The field `corral` of an answer; empty if there is nothing to say."""
        told: dict[str, Any] = {
            "ignored": list(dict.fromkeys(self._ignored))[:_MOST_NAMES],
            "warnings": list(finished.warnings),
            "dropped_messages": finished.dropped_messages,
            "dropped_tokens": finished.dropped_tokens,
            "format_problem": finished.format_problem,
        }
        return {name: value for name, value in told.items() if value}

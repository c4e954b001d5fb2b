"""Outputs for a slow reader: deltas are merged, so that they take no more memory than the text itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from corral.core.errors import ErrorInfo
from corral.core.requests.outputs import Delta, Output
from corral.core.stepping.loops import Outcome

__all__ = ("Outbox", "merged")

_COMPACT_AT = 256


def merged(items: Iterable[Output | ErrorInfo]) -> list[Output | ErrorInfo]:
    """The same items, neighbouring deltas merged: all that they contain in order, token counts added."""
    result: list[Output | ErrorInfo] = []
    for kind, run in groupby(items, type):
        if kind is Delta:
            result.append(_joined([item for item in run if isinstance(item, Delta)]))
        else:
            result += run
    return result


def _joined(run: Sequence[Delta]) -> Delta:
    if len(run) == 1:
        return run[0]
    return Delta(
        text="".join([delta.text for delta in run]),
        thinking="".join([delta.thinking for delta in run]),
        tool_calls=tuple([call for delta in run for call in delta.tool_calls]),
        token_count=sum([delta.token_count for delta in run]),
        logprobs=tuple([one for delta in run for one in delta.logprobs]),
        warnings=tuple([warning for delta in run for warning in delta.warnings]),
    )


class Outbox:
    """Outcomes of many requests that the other side has not read yet. Not thread-safe: callers lock it."""

    __slots__ = ("_compact_at", "_items", "_steps")

    def __init__(self) -> None:
        self._items: list[Outcome] = []
        self._steps = 0
        self._compact_at = _COMPACT_AT

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, outcomes: list[Outcome]) -> None:
        """Add the outcomes of one step."""
        self._items += outcomes
        self._steps += 1
        if len(self._items) > self._compact_at:
            self._items = _by_request(self._items)
            self._compact_at = max(_COMPACT_AT, 2 * len(self._items))

    def take(self) -> list[Outcome]:
        """Return everything, with the deltas of several steps merged and each request's order kept."""
        items = self._items if self._steps <= 1 else _by_request(self._items)
        self._items, self._steps, self._compact_at = [], 0, _COMPACT_AT
        return items


def _by_request(outcomes: list[Outcome]) -> list[Outcome]:
    requests: dict[int, list[Output | ErrorInfo]] = {}
    for request_id, item in outcomes:
        requests.setdefault(request_id, []).append(item)
    return [(request_id, item) for request_id, items in requests.items() for item in merged(items)]

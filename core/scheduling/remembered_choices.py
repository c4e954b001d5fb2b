"""Remembers which engine was chosen: most requests for a loaded model repeat an earlier choice."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from corral.core.lru import LruDict
from corral.core.models.view import ModelView
from corral.core.scheduling.engine_choice import Candidate, EngineChooser

__all__ = ("RememberedChoices",)

_REMEMBERED = 256


class RememberedChoices:
    """An `EngineChooser` whose answers are remembered, except errors and provisional ones."""

    def __init__(self, chooser: EngineChooser) -> None:
        self._chooser = chooser
        self._choices: LruDict[tuple[object, ...], Candidate] = LruDict(_REMEMBERED)

    def choose(
        self, view: ModelView, engine: str | None, tasks: Collection[str], load_options: Mapping[str, Any]
    ) -> Candidate:
        """As `EngineChooser.choose`."""
        record = view.record
        key = (
            record.name.key,
            record.digest,
            view.metadata is None,
            engine,
            frozenset(tasks),
            tuple((name, type(value), value) for name, value in load_options.items()),
        )
        try:
            found = self._choices.get(key)
        except TypeError:  # an option whose value is not hashable
            return self._chooser.choose(record, view.metadata, engine, tasks, load_options)
        if found is None:
            found = self._chooser.choose(record, view.metadata, engine, tasks, load_options)
            if not found.provisional:
                self._choices.put(key, found)
        return found

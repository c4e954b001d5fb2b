"""Runs work on texts in turns: cancelled work costs nothing more, and no short text waits for a long one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Generic, TypeVar, cast

from corral.core.stepping.fair_queue import FairQueue

__all__ = ("Steps", "TextThreads")

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Work that yields between pieces of a few milliseconds and returns its result. It raises nothing."""

_SHORT_CHARACTERS = 16_384


class TextThreads(Generic[T]):
    """Two threads, one for short texts and one for long ones; each starts when it is first needed.

    `answer` is called in them with each result.
    """

    def __init__(self, name: str, answer: Callable[[T], object]) -> None:
        self._short = _Lane(name, answer)
        self._long = _Lane(f"{name} of long texts", answer)

    def begin(self, key: object, steps: Steps[T], characters: int, owner: str = "") -> None:
        """The result of `steps` goes to `answer`, unless `give_up(key)` or `close` comes first. Thread-safe.

        Owners take turns, and so do the texts of each.
        """
        lane = self._short if characters <= _SHORT_CHARACTERS else self._long
        lane.add(key, steps, owner)

    def give_up(self, key: object) -> None:
        """Cancels the work with this key: it ends with its current turn. An unknown key does nothing."""
        self._short.remove(key)
        self._long.remove(key)

    def close(self) -> None:
        """Cancels all unfinished work. Does not wait for turns in progress."""
        self._short.close()
        self._long.close()


class _Lane(Generic[T]):
    """Work that takes turns in one thread."""

    def __init__(self, name: str, answer: Callable[[T], object]) -> None:
        self._name = name
        self._answer = answer
        self._changed = threading.Condition()
        self._waiting: FairQueue[tuple[object, Steps[T], str]] = FairQueue(lambda item: item[2])
        self._running: object | None = None
        self._started = False
        self._closed = False

    def add(self, key: object, steps: Steps[T], owner: str) -> None:
        with self._changed:
            if self._closed:
                return
            self._waiting.append((key, steps, owner))
            self._changed.notify()
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def remove(self, key: object) -> None:
        with self._changed:
            for item in self._waiting:
                if item[0] == key:
                    self._waiting.remove(item)
                    break
            if self._running == key:
                self._running = None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._running = None
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                key, steps, owner = self._waiting.popleft()
                self._running = key
            results: list[T] = []
            try:
                next(steps)
            except StopIteration as end:
                results.append(end.value)
            with self._changed:
                wanted = self._running == key
                self._running = None
                if wanted and not results:
                    self._waiting.append((key, steps, owner))
            if wanted:
                for result in results:
                    self._answer(result)
            key, steps, results = None, cast("Steps[T]", None), []  # frees what was cancelled

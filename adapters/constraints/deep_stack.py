"""Runs a function on a stack that deep recursion in native code does not exhaust."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ("on_deep_stack",)

T = TypeVar("T")

_STACK_BYTES = 256 << 20
"""Address space: only what recursion touches becomes memory."""

_starting = threading.Lock()


def on_deep_stack(function: Callable[[], T]) -> T:
    """Call `function` in a separate thread, and return or raise its result once the thread has ended."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="deep stack")
    with _starting:  # the size is a setting of the whole process
        usual = threading.stack_size(_STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(usual)
    thread.join()
    for error in errors:
        raise error
    return results[0]

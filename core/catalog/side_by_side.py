"""Runs several transfers at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

__all__ = ("side_by_side",)

_AT_ONCE = 4

T = TypeVar("T")


async def side_by_side(jobs: Sequence[Callable[[], Awaitable[T]]], at_once: int = _AT_ONCE) -> list[T]:
    """The results of all jobs in order. A few run at a time; they begin in order.

    If one fails, the others are cancelled and waited for; then its error is raised.
    """
    room = asyncio.Semaphore(at_once)

    async def work(job: Callable[[], Awaitable[T]]) -> T:
        async with room:
            return await job()

    first: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work(job)) for job in jobs]
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
    if first is not None:  # raised out here, it keeps its own cause and does not get the group as its context
        raise first
    return [task.result() for task in tasks]

"""Renders chats in separate threads, so that a model with a slow template delays no other model's chats.

Templates come with models, so they may be slow or hostile. Each has one rendering at a time, the number of threads is
limited, and a rendering that nobody waits for any more is asked to stop.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

from corral.core.ports.chat import ChatFormat, RenderedChat
from corral.core.requests.control_tokens import ControlTokens
from corral.core.requests.requests import ChatRequest
from corral.core.waiting import until_done

__all__ = ("FormatInThreads", "RenderingThreads", "abandoned")

_THREADS = 8

_abandoned: ContextVar[threading.Event | None] = ContextVar("abandoned", default=None)


def abandoned() -> bool:
    """For chat formats, in the thread that renders: whether nobody waits for this rendering any more."""
    event = _abandoned.get()
    return event is not None and event.is_set()


class RenderingThreads:
    """The threads that chat formats are compiled and rendered in, until `close`."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="template")

    async def open(self, compile_format: Callable[[], ChatFormat]) -> FormatInThreads:
        """The format that `compile_format` makes."""
        chat_format = await asyncio.get_running_loop().run_in_executor(self._executor, compile_format)
        return FormatInThreads(chat_format, self._executor)

    def close(self) -> None:
        """Waits for nothing; a rendering in progress ends by itself. Later ones raise `RuntimeError`."""
        self._executor.shutdown(wait=False)


class FormatInThreads:
    """A `ChatFormat` for an event loop: `render` waits for its turn and then for the thread."""

    def __init__(self, chat_format: ChatFormat, executor: ThreadPoolExecutor) -> None:
        self._format = chat_format
        self._executor = executor
        self._turn = asyncio.Lock()

    async def render(self, request: ChatRequest, control: ControlTokens) -> RenderedChat:
        """As `ChatFormat.render`. A caller cancelled during its turn waits until the rendering has noticed."""
        async with self._turn:
            stop = threading.Event()
            context = contextvars.copy_context()
            context.run(_abandoned.set, stop)
            job = asyncio.get_running_loop().run_in_executor(
                self._executor, context.run, self._format.render, request, control
            )
            return await until_done(job, stop)

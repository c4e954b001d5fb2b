"""Renders chats without delaying those of other models: short ones in the event loop, the others in threads.

Templates come with models, so they may be slow or hostile. In the event loop, a rendering is asked to stop after two
milliseconds, is repeated in a thread, and its template gets no second chance there. In the threads, each template has
one rendering at a time, and a rendering that nobody waits for any more is asked to stop.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import TypeVar

from corral.core.ports.chat import ChatFormat, RenderedChat
from corral.core.requests.control_tokens import ControlTokens, control_tokens
from corral.core.requests.requests import ChatRequest
from corral.core.waiting import until_done

__all__ = ("FormatInThreads", "RenderingThreads", "abandoned")

T = TypeVar("T")

_THREADS = 8

_SHORT_CHARS = 8192
_SHORT_MESSAGES = 64
_IN_LOOP_S = 0.002
_IN_LOOP_CHARS = 64 << 10
_FEW_SPELLINGS = 512


class _Limit:
    """Like a `threading.Event` that is set once this thread has used this much more processor time, or is about to go
    through more text than it could in that time.
    """

    def __init__(self, limit_s: float) -> None:
        self._ends_s = time.thread_time() + limit_s
        self._chars = _IN_LOOP_CHARS

    def spend(self, chars: int) -> None:
        self._chars -= chars

    def is_set(self) -> bool:
        return self._chars < 0 or time.thread_time() > self._ends_s


_abandoned: ContextVar[threading.Event | _Limit | None] = ContextVar("abandoned", default=None)


def abandoned(chars: int = 0) -> bool:
    """Whether this rendering should stop, by raising any `Exception`. For chat formats, in the thread that renders.

    `chars` is the length of a text that a single operation is going to work on.
    """
    event = _abandoned.get()
    if chars and isinstance(event, _Limit):
        event.spend(chars)
    return event is not None and event.is_set()


class RenderingThreads:
    """The threads that chat formats are compiled and rendered in, until `close`."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="template")

    async def run(self, work: Callable[[], T]) -> T:
        """Does work that takes long, such as compiling a format."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def format(self, chat_format: ChatFormat) -> FormatInThreads:
        """The format, to be rendered in these threads."""
        return FormatInThreads(chat_format, self._executor)

    def close(self) -> None:
        """Waits for nothing; a rendering in progress ends by itself. Later ones raise `RuntimeError`."""
        self._executor.shutdown(wait=False)


class FormatInThreads:
    """A `ChatFormat` for an event loop.

    Formats that are `interruptible` render short chats at once. For all others, `render` waits for its turn and then
    for a thread.
    """

    def __init__(self, chat_format: ChatFormat, executor: ThreadPoolExecutor) -> None:
        self._format = chat_format
        self._executor = executor
        self._turn = asyncio.Lock()
        self._in_loop = getattr(chat_format, "interruptible", False) is True  # a plugin's may be anything

    async def control(self, spellings: tuple[str, ...] | None) -> ControlTokens:
        """As `control_tokens`. Large vocabularies are compiled in a thread."""
        if len(spellings or ()) <= _FEW_SPELLINGS and sum(map(len, spellings or ())) <= _SHORT_CHARS:
            return control_tokens(spellings)
        async with self._turn:
            return await asyncio.get_running_loop().run_in_executor(self._executor, control_tokens, spellings)

    async def render(self, request: ChatRequest, control: ControlTokens) -> RenderedChat:
        """As `ChatFormat.render`. A caller cancelled during its turn waits until the rendering has noticed."""
        if self._in_loop and _is_short(request):
            limit = _Limit(_IN_LOOP_S)
            token = _abandoned.set(limit)
            try:
                return self._format.render(request, control)
            except Exception:
                if not limit.is_set():
                    raise
            finally:
                self._in_loop = not limit.is_set()  # a template that was not asked in time is as slow
                _abandoned.reset(token)
        async with self._turn:
            stop = threading.Event()
            context = contextvars.copy_context()
            context.run(_abandoned.set, stop)
            job = asyncio.get_running_loop().run_in_executor(
                self._executor, context.run, self._format.render, request, control
            )
            return await until_done(job, stop)


def _is_short(request: ChatRequest) -> bool:
    messages = request.messages
    if request.tools or len(messages) > _SHORT_MESSAGES:
        return False
    chars = len(request.suffix)
    for message in messages:
        if message.tool_calls or message.tool_name or message.tool_call_id:
            return False
        chars += len(message.content) + len(message.thinking or "") + len(message.role)
    return chars <= _SHORT_CHARS

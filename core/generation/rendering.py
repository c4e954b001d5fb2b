"""Renders chat templates in threads of their own: a model with a slow template holds up no other model's chats.

Templates come with models, so they may be slow or hostile. Each has one rendering at a time, the threads are bounded,
and a rendering that nobody waits for any longer is told to stop.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import Any

from corral.core.ports.chat import ChatTemplate
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.messages import Message, Tool
from corral.core.requests.prompts import Prompt
from corral.core.waiting import until_done

__all__ = ("RenderedApart", "RenderingThreads", "abandoned")

_THREADS = 8

_abandoned: ContextVar[threading.Event | None] = ContextVar("abandoned", default=None)


def abandoned() -> bool:
    """For templates, in the thread that renders: whether nobody waits for this rendering any longer."""
    event = _abandoned.get()
    return event is not None and event.is_set()


class RenderingThreads:
    """The threads that templates are rendered in, until `close`."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="template")

    async def apart(self, compile_template: Callable[[], ChatTemplate]) -> RenderedApart:
        """The template that `compile_template` makes, compiled and rendered in these threads."""
        template = await asyncio.get_running_loop().run_in_executor(self._executor, compile_template)
        return RenderedApart(template, self._executor)

    def close(self) -> None:
        """Waits for nothing; a rendering under way ends by itself. Later ones raise `RuntimeError`."""
        self._executor.shutdown(wait=False)


class RenderedApart:
    """A `ChatTemplate` for an event loop: `render` waits for its turn and then for the thread."""

    def __init__(self, template: ChatTemplate, executor: ThreadPoolExecutor) -> None:
        self._template = template
        self._executor = executor
        self._turn = asyncio.Lock()

    async def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        variables: Mapping[str, Any] | None = None,
        control: ControlTokens = LOOKALIKES,
    ) -> Prompt:
        """As `ChatTemplate.render`. A caller cancelled in its turn waits until the rendering has noticed."""
        render = partial(self._template.render, messages, tools=tools, variables=variables, control=control)
        async with self._turn:
            stop = threading.Event()
            context = contextvars.copy_context()
            context.run(_abandoned.set, stop)
            job = asyncio.get_running_loop().run_in_executor(self._executor, context.run, render)
            return await until_done(job, stop)

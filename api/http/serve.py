"""Runs the application on a port, in one process: clear errors if the port is taken, and a graceful shutdown."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import uvicorn
from litestar import Litestar

from corral.api.http.connection import Connection
from corral.api.http.connections import Connections, raise_file_limit
from corral.api.http.listening import BACKLOG, address_of, bind, inode_of, release
from corral.api.http.settings import HttpSettings

__all__ = ("run_event_loop", "serve")

ResultT = TypeVar("ResultT")

_log = logging.getLogger("corral.http")

_CHECK_EVERY_S = 1.0
_LONGEST_TIMER_S = 24 * 3600.0
_TICK_S = 0.1
_DRAIN_POLL_S = 0.01
_LAST_WORDS_S = 1.0


def run_event_loop(main: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Like `asyncio.run`, on the fastest event loop available: uvloop, except on Windows."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def serve(
    app: Litestar, settings: HttpSettings, *, on_ready: Callable[[str], None] = lambda address: None
) -> None:
    """Serves until SIGINT or SIGTERM. Calls `on_ready` with the address once requests are accepted.

    After a signal the server accepts no connections. Running requests have `shutdown_grace_s` to finish before they
    are cancelled; a second signal cancels them immediately. Cancelling this call counts as a signal. The caller
    unloads the models afterwards (`Runtime.aclose`). Raises `Conflict` if the address is taken, naming who uses it,
    and `SettingsError` if it does not belong to this machine.
    """
    listener = await asyncio.to_thread(bind, settings)
    inode = inode_of(settings.unix_socket)
    connections = Connections(settings.max_connections, raise_file_limit())
    config = uvicorn.Config(
        app,
        http=partial(Connection, settings=settings, connections=connections, dialects=app.state.dialects),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # All waiting connections may be accepted at once, before any of them can be rejected.
        backlog=min(BACKLOG, connections.reserved_files // 2),
        timeout_keep_alive=math.ceil(min(settings.idle_timeout_s, _LONGEST_TIMER_S)),
    )
    server = _Server(config, settings.shutdown_grace_s, connections, lambda: on_ready(address_of(listener)))
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.stop()
        await serving
        raise
    finally:
        await asyncio.to_thread(release, listener, settings.unix_socket, inode)


class _Server(uvicorn.Server):
    """uvicorn, with signals that let `serve` return normally, checked connections, and a quiet shutdown."""

    def __init__(
        self, config: uvicorn.Config, grace_s: float, connections: Connections, on_ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._grace_s = grace_s
        self._connections = connections
        self._on_ready = on_ready
        self._checks_at_s = 0.0
        self._stopping = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready()

    async def main_loop(self) -> None:
        """Like uvicorn's, except that `stop` wakes it immediately."""
        counter = 0
        while not await self.on_tick(counter):
            counter += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _TICK_S)

    async def on_tick(self, counter: int) -> bool:
        self._check_connections()
        return await super().on_tick(counter)

    def _check_connections(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._checks_at_s:
            self._checks_at_s = now_s + _CHECK_EVERY_S
            self._connections.check()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets requests finish within the grace period and cancels the rest: uvicorn has nothing to wait for."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        await self._drained(self._grace_s, until_forced=True)
        if state.tasks:
            count = len(state.tasks)
            _log.warning("cutting off %d request%s still running", count, "" if count == 1 else "s")
            for task in list(state.tasks):
                task.cancel()
            await self._drained(_LAST_WORDS_S)
        for connection in list(state.connections):
            connection.transport.abort()
        self.force_exit = False  # nothing is left to force, and the application still gets its shutdown event
        await asyncio.sleep(0)  # connections notice that they are closed
        if state.tasks or state.connections:
            await super().shutdown(sockets=sockets)
        else:  # the same as uvicorn's, without its fixed pause
            await self.lifespan.shutdown()

    async def _drained(self, limit_s: float, *, until_forced: bool = False) -> None:
        """Waits until all responses have been sent, or the time is up."""
        deadline_s = time.monotonic() + limit_s
        state = self.server_state
        while (state.tasks or state.connections) and time.monotonic() < deadline_s:
            if until_forced and self.force_exit:
                return
            await asyncio.sleep(_DRAIN_POLL_S)
            self._check_connections()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            for number in numbers:
                loop.add_signal_handler(number, self.stop)
        except (
            NotImplementedError,
            RuntimeError,
            ValueError,
        ):  # Windows, or another thread: its owner stops us
            yield
            return
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Stops gracefully; the second call stops immediately."""
        if self.should_exit:
            self.force_exit = True
        else:
            _log.info("shutting down: waiting for running requests")
            self.should_exit = True
            self._stopping.set()

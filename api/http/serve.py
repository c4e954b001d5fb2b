"""Runs the application on a port: one process, a clear word about a port that is taken, a shutdown that drains."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import logging
import math
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from litestar import Litestar

from corral.api.http.connection import Connection
from corral.api.http.connections import Connections, raise_file_limit
from corral.api.http.settings import HttpSettings
from corral.core.errors import Conflict, SettingsError

__all__ = ("bind", "run_event_loop", "serve", "who_answers")

ResultT = TypeVar("ResultT")

_log = logging.getLogger("corral.http")

_PROBE_TIMEOUT_S = 2.0
_SEND_BUFFER_BYTES = 128 * 1024
_CHECK_EVERY_S = 1.0
_LONGEST_TIMER_S = 24 * 3600.0
_TICK_S = 0.1
_DRAIN_POLL_S = 0.01
_LAST_WORDS_S = 1.0
_BACKLOG = 2048


def run_event_loop(main: Coroutine[Any, Any, ResultT]) -> ResultT:
    """`asyncio.run` on the loop the server is fastest on: uvloop where there is one."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def serve(
    app: Litestar, settings: HttpSettings, *, on_ready: Callable[[str], None] = lambda address: None
) -> None:
    """Serve until SIGINT or SIGTERM. `on_ready` is called with the address once requests are answered.

    A signal stops the server taking connections; requests in flight have `shutdown_grace_s` to end and are cancelled
    then; a second signal cancels them at once. Cancelling the call is such a signal too. Models are the caller's to
    unload afterwards (`Runtime.aclose`). Raises `Conflict` for an address that is taken, naming who has it, and
    `SettingsError` for one that is not ours.
    """
    listener = await asyncio.to_thread(bind, settings)
    inode = _inode(settings.unix_socket)
    connections = Connections(settings.max_connections, raise_file_limit())
    config = uvicorn.Config(
        app,
        http=partial(Connection, settings=settings, connections=connections, dialects=app.state.dialects),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # Whoever waits to be accepted may be accepted all at once, before anyone can be refused.
        backlog=min(_BACKLOG, connections.reserved_files // 2),
        timeout_keep_alive=math.ceil(min(settings.idle_timeout_s, _LONGEST_TIMER_S)),
    )
    server = _Server(config, settings.shutdown_grace_s, connections, lambda: on_ready(_address(listener)))
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.stop()
        await serving
        raise
    finally:
        await asyncio.to_thread(_release, listener, settings.unix_socket, inode)


def bind(settings: HttpSettings) -> socket.socket:
    """A listening socket. Blocking; raises as `serve` does."""
    if settings.unix_socket is not None:
        return _bind_unix(settings.unix_socket)
    where = f"{settings.host}:{settings.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {where}: {error}", "set CORRAL_HOST to an address of this machine"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. The system's own would take minutes of an answer before it shows that nobody reads.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            holder = who_answers(settings.host, settings.port)
            raise Conflict(
                f"{where} is in use by {holder}", "stop it, or choose another port with CORRAL_HOST or --port"
            ) from error
        raise SettingsError(f"cannot listen on {where}: {error.strerror}", "choose another host or port") from error
    return listener


def who_answers(host: str, port: int) -> str:
    """Who has a port, in words: ``Corral 0.1.0``, ``Ollama 0.5.1``, another program. Blocks for two seconds at most."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    connection = http.client.HTTPConnection(target, port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/api/version")
        version = json.loads(connection.getresponse().read(4096))
    except (OSError, http.client.HTTPException, ValueError):
        return "another program"
    finally:
        connection.close()
    if isinstance(version, dict) and "corral" in version:
        return f"Corral {version['corral']}"
    if isinstance(version, dict) and "version" in version:
        return f"Ollama {version['version']}"
    return "another web server"


def _bind_unix(path: str) -> socket.socket:
    """Replaces a socket that nobody listens on, which a killed server leaves behind, and nothing else."""
    _require_free(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(f"cannot listen on {path}: {error.strerror or error}", "choose another path") from error
    return listener


def _require_free(path: str) -> None:
    """Removes an abandoned socket at `path`. Raises `Conflict` for one in use, `SettingsError` for any other file."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot listen on {path!r}: {error}", "choose another path") from error
    if not stat.S_ISSOCK(mode):
        kind = next((name for is_kind, name in _FILE_KINDS if is_kind(mode)), "a file")
        raise SettingsError(
            f"cannot listen on {path}: it is {kind}, not a socket", "choose another path: Corral never replaces a file"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SettingsError(
                f"cannot find out whether {path} is in use: {error.strerror or error}",
                "remove it, or choose another path",
            ) from error
        else:
            raise Conflict(f"{path} is in use by another server", "stop it, or choose another socket")


_FILE_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISREG, "a regular file"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _inode(path: str | None) -> tuple[int, int] | None:
    """Which file stands at `path` now; None if there is none."""
    try:
        status = None if path is None else os.lstat(path)
    except OSError:
        return None
    return None if status is None else (status.st_dev, status.st_ino)


def _release(listener: socket.socket, unix_socket: str | None, inode: tuple[int, int] | None) -> None:
    """Another server may have taken the path meanwhile; its socket stays."""
    listener.close()
    if unix_socket is not None and inode is not None and _inode(unix_socket) == inode:
        Path(unix_socket).unlink(missing_ok=True)


def _address(listener: socket.socket) -> str:
    name = listener.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


class _Server(uvicorn.Server):
    """uvicorn with signals that end `serve` normally, connections that are watched, and a stop that takes one line."""

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
        """uvicorn's own, except that `stop` wakes it at once."""
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
        """Lets requests end within the grace and cuts off the rest, so that uvicorn has nothing to wait for."""
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
        self.force_exit = False  # there is nothing left to force, and the application is told of its end
        await asyncio.sleep(0)  # connections hear that they are closed
        if state.tasks or state.connections:
            await super().shutdown(sockets=sockets)
        else:  # the same without its fixed pause
            await self.lifespan.shutdown()

    async def _drained(self, limit_s: float, *, until_forced: bool = False) -> None:
        """Waits until all requests have been answered and sent, or the time is up."""
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
        except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread: its owner stops us
            yield
            return
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """End gently; at once the second time."""
        if self.should_exit:
            self.force_exit = True
        else:
            _log.info("shutting down: waiting for running requests")
            self.should_exit = True
            self._stopping.set()

"""Calls a plugin's code so that nothing but a value or an ordinary exception escapes."""

from __future__ import annotations

import ctypes
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Generic, ParamSpec, TypeVar

from corral.core.errors import PluginError
from corral.core.wording.clipping import clipped
from corral.core.wording.printable import one_line, printable

__all__ = ("TookTooLong", "beside", "contained", "interrupts_reach_us", "on_own_thread", "short_line", "usual_stream")

P = ParamSpec("P")
T = TypeVar("T")


class TookTooLong(Exception):
    """A plugin's code did not return in time; the message states the limit."""


def contained(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Calls a short, pure function of a plugin. Raises `Exception`s unchanged, and `PluginError` in place of what would
    end a thread or the program (`SystemExit`, `KeyboardInterrupt`, `GeneratorExit`).

    The user's Ctrl-C still interrupts the caller: if it could be mistaken for an interrupt that the plugin raises, the
    function is called on another thread, which no signal reaches.
    """
    if interrupts_reach_us():
        return on_own_thread(lambda: function(*arguments, **named), limit_s=None)
    try:
        return function(*arguments, **named)
    except Exception:
        raise
    except BaseException as fault:
        raise _as_error(fault) from fault


def on_own_thread(work: Callable[[], T], *, limit_s: float | None) -> T:
    """Does `work` on a new thread and waits for it. What it prints goes to standard error, since standard output
    belongs to the command. Raises as `contained` does, and `TookTooLong` if it is not done after `limit_s`.

    Work that is abandoned is asked to end as soon as it runs Python code again, and is never waited for.
    """
    task = _Task(work)
    thread = threading.Thread(target=task.run, name="plugin", daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        assert thread.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        raise TookTooLong(f"did not end within {limit_s:g} s")
    return task.result()


async def beside(work: Callable[[], T]) -> T:
    """Does work that may call plugins on a separate thread, and waits without blocking the loop. If the wait is
    cancelled, nothing waits for the thread any more, not even the end of the program.
    """
    import asyncio  # only here: model processes import plugins without ever running a loop

    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    task = _Task(work)

    def finish() -> None:
        if not done.done():
            done.set_result(None)

    def run() -> None:
        task.run(printing_elsewhere=False)
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(finish)

    threading.Thread(target=run, name="assembly", daemon=True).start()
    await done
    return task.result()


def short_line(text: object, limit: int = 300) -> str:
    """A plugin's text, safe for a terminal and a log: as `clipping.clipped_line`, with runs of white space as one
    space.
    """
    try:
        said = str(text)
    except BaseException:  # a plugin's exception may itself raise when converted to text
        said = f"<{type(text).__name__} that cannot be printed>"
    return one_line(" ".join(clipped(said, limit).split()))


class _Task(Generic[T]):
    """Some work and what became of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._made: list[T] = []
        self._fault: BaseException | None = None

    def run(self, *, printing_elsewhere: bool = True) -> None:
        try:
            with _printing_elsewhere() if printing_elsewhere else nullcontext():
                self._made.append(self._work())
        except BaseException as fault:
            self._fault = fault

    def result(self) -> T:
        if self._fault is None:
            return self._made[0]
        if isinstance(self._fault, Exception):
            raise self._fault
        raise _as_error(self._fault) from self._fault


def _as_error(fault: BaseException) -> PluginError:
    said = short_line(fault)
    return PluginError(f"raised {type(fault).__name__}" + (f": {said}" if said else ""))


def interrupts_reach_us() -> bool:
    """Whether Ctrl-C raises `KeyboardInterrupt` in this thread: only in the main thread, with Python's own handler."""
    return (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


_PRINTED_LIMIT = 65_536  # characters printed by one call of a plugin's code


class _Printed(io.TextIOBase):
    """Forwards what a plugin prints to standard error: bounded, with control characters escaped, and not closable."""

    def __init__(self) -> None:
        self._left = _PRINTED_LIMIT

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._left > 0 and sys.stderr is not None:
            kept = text[: self._left]
            self._left -= len(kept)
            end = "" if self._left else "\n(what a plugin prints beyond this is dropped)\n"
            sys.stderr.write(printable(kept) + end)
        return len(text)

    def flush(self) -> None:
        if sys.stderr is not None:
            sys.stderr.flush()

    def close(self) -> None:
        pass


class _OutputByThread:
    """Standard output, except for some threads, whose output goes to standard error."""

    def __init__(self, usual: Any) -> None:
        self.usual = usual
        self.diverted: dict[int, _Printed] = {}

    def __getattr__(self, name: str) -> Any:
        printed = self.diverted.get(threading.get_ident())
        return getattr(self.usual if printed is None else printed, name)


def usual_stream(stream: Any) -> Any:
    """The stream itself, or the one behind it if it diverts what plugins print."""
    return stream.usual if isinstance(stream, _OutputByThread) else stream


_output_lock = threading.Lock()


@contextmanager
def _printing_elsewhere() -> Iterator[None]:
    """For this thread alone. A thread that never returns keeps its own diversion."""
    if sys.stdout is None:
        yield
        return
    me = threading.get_ident()
    with _output_lock:
        current: Any = sys.stdout
        output = current if isinstance(current, _OutputByThread) else _OutputByThread(current)
        output.diverted[me] = _Printed()
        sys.stdout = output
    try:
        yield
    finally:
        with _output_lock:
            output.diverted.pop(me, None)
            if not output.diverted and sys.stdout is output:
                sys.stdout = output.usual

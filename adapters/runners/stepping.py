"""What happens in an engine's thread, in either process: load the engine, then run its loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import cast

import msgspec

from corral.adapters.runners.frames import Abort, Add, Close
from corral.adapters.runners.preparing import Preparation, Preparing
from corral.core.errors import CorralError, EngineNotInstalled, LoadFailed, OutOfMemory
from corral.core.ports.engines import Engine, GeneratorEngine, StepEngine
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import OpenTokenizer
from corral.core.requests.requests import Request
from corral.core.specs.engines import LoadRequest
from corral.core.specs.imports import import_name
from corral.core.stepping.loops import EngineLoop, GeneratorLoop, Outcome, StepLoop, error_info

__all__ = ("Command", "Stepper", "described", "load_engine")

Command = Add[Request] | Abort | Close | Preparation


def load_engine(
    *, engine: str, form: str, load: str, install_hint: str | None, request: LoadRequest, on_progress: OnLoadProgress
) -> tuple[EngineLoop, ModelInfo]:
    """Import the engine, load the model, create its loop, and ask what it can do.

    Raises the errors of `Runner.load`.
    """
    try:
        loaded = import_name(load)(request, on_progress)
        try:
            info = described(loaded)
        except BaseException:
            loaded.close()
            raise
    except CorralError:
        raise
    except ImportError as error:
        raise EngineNotInstalled(f"the {engine} engine cannot be imported: {error}", install_hint) from error
    except MemoryError as error:
        raise OutOfMemory(f"loading {request.model}: out of memory") from error
    except BaseException as error:  # including SystemExit, which would end the thread or the waiting loop
        raise LoadFailed(f"loading {request.model}: {type(error).__name__}: {error}") from error
    if form == "step":
        return StepLoop(cast(StepEngine, loaded)), info
    if form == "generator":
        return GeneratorLoop(cast(GeneratorEngine, loaded)), info
    raise LoadFailed(f"the {engine} engine has the form {form!r}, which does not run in a thread")


def described(engine: Engine) -> ModelInfo:
    """The engine's `info`, with the control tokens of its vocabulary if it does not list them itself."""
    info, tokenizer = engine.info, engine.tokenizer
    if info.control_tokens is not None or not hasattr(tokenizer, "vocabulary"):
        return info
    vocabulary = cast(OpenTokenizer, tokenizer).vocabulary()
    spelled = (vocabulary.pieces[token_id].decode("utf-8", "replace") for token_id in sorted(vocabulary.control))
    return msgspec.structs.replace(info, control_tokens=tuple(dict.fromkeys(text for text in spelled if text)))


class Stepper:
    """Runs a loop until `Close` arrives in the inbox: first the commands, then one step, then its outcomes.

    A request that takes time to prepare joins the loop once that is done; other requests do not wait for it. While
    there is no request, the engine may `idle`. `on_info` gets what the engine says of itself whenever that changes.
    """

    def __init__(
        self,
        loop: EngineLoop,
        inbox: SimpleQueue[Command],
        deliver: Callable[[list[Outcome]], None],
        on_info: Callable[[ModelInfo], None] = lambda info: None,
    ) -> None:
        self._loop = loop
        self._inbox = inbox
        self._deliver = deliver
        self._on_info = on_info
        self._info = loop.engine.info
        self._step_began_s: float | None = None
        self._preparing = Preparing(loop, inbox.put)
        self._unprepared: dict[int, Preparation] = {}

    @property
    def step_s(self) -> float:
        """How long the current step has taken so far; 0 between steps. For other threads."""
        began = self._step_began_s
        return 0.0 if began is None else time.monotonic() - began

    def run(self) -> None:
        """Run until `Close`. Raises what the step of a broken engine raises."""
        try:
            self._run()
        finally:
            self._drop_unprepared()

    def _run(self) -> None:
        loop, inbox = self._loop, self._inbox
        while True:
            while not inbox.empty() or not loop.unfinished():
                command = self._next_command()
                if isinstance(command, Add):
                    self._add(command.request_id, command.request)
                elif isinstance(command, Preparation):
                    self._add_prepared(command)
                elif isinstance(command, Abort):
                    self._abort(command.request_id)
                else:
                    return
            self._step_began_s = time.monotonic()
            outcomes = loop.step()
            self._step_began_s = None
            if outcomes:
                self._deliver(outcomes)
            self._report_info()

    def _next_command(self) -> Command:
        """Wait for a command. Meanwhile the engine may idle, unless a request is being prepared."""
        loop, inbox = self._loop, self._inbox
        while inbox.empty() and not self._unprepared:
            self._step_began_s = time.monotonic()
            wait_s = loop.idle()
            self._step_began_s = None
            self._report_info()
            if wait_s is None:
                break
            with suppress(Empty):
                return inbox.get(timeout=max(0.0, wait_s))
        return inbox.get()

    def _report_info(self) -> None:
        info = self._loop.engine.info
        if info is not self._info and info != self._info:
            self._info = info
            self._on_info(described(self._loop.engine))

    def _drop_unprepared(self) -> None:
        self._preparing.close()
        for preparation in self._unprepared.values():
            self._preparing.give_up(preparation)
        while not self._inbox.empty():
            command = self._inbox.get()
            if isinstance(command, Preparation):
                command.drop()

    def _add(self, request_id: int, request: Request) -> None:
        try:
            preparation = self._preparing.begin(request_id, request)
        except Exception as error:
            self._deliver([(request_id, error_info(error))])
            return
        if preparation is None:
            self._loop.add(request_id, request)
        else:
            self._unprepared[request_id] = preparation

    def _abort(self, request_id: int) -> None:
        preparation = self._unprepared.pop(request_id, None)
        if preparation is None:
            self._loop.abort(request_id)
        else:
            self._preparing.give_up(preparation)  # others wait behind it

    def _add_prepared(self, preparation: Preparation) -> None:
        request_id = preparation.request_id
        if self._unprepared.get(request_id) is not preparation:  # aborted; the id may belong to another request by now
            preparation.drop()
            return
        del self._unprepared[request_id]
        if preparation.error is not None:
            preparation.drop()
            self._deliver([(request_id, preparation.error)])
        else:
            self._loop.add(
                request_id, preparation.request, preparation.mask, preparation.prepared, preparation.arrived_ns
            )

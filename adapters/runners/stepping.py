"""What happens in an engine's own thread, whichever process that is in: load it, then turn its loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import cast

from corral.adapters.runners.frames import Abort, Add, Close, request_of
from corral.adapters.runners.masking import Masked, Masking
from corral.core.engines import LoadRequest
from corral.core.errors import CorralError, EngineNotInstalled, ErrorInfo, LoadFailed, OutOfMemory
from corral.core.import_names import import_name
from corral.core.ports.inference import GeneratorEngine, OnLoadProgress, StepEngine
from corral.core.requests import CompletionRequest, Request
from corral.core.step_loop import EngineLoop, GeneratorLoop, Outcome, StepLoop

__all__ = ("Command", "Stepper", "load_engine")

Command = Add[Request] | Abort | Close | Masked


def load_engine(
    *, engine: str, form: str, load: str, install_hint: str | None, request: LoadRequest, on_progress: OnLoadProgress
) -> EngineLoop:
    """Import the engine, load the model and put the engine's loop around it. Raises as `Runner.load` does."""
    try:
        loaded = import_name(load)(request, on_progress)
    except CorralError:
        raise
    except ImportError as error:
        raise EngineNotInstalled(f"the {engine} engine cannot be imported: {error}", install_hint) from error
    except MemoryError as error:
        raise OutOfMemory(f"loading {request.model}: out of memory") from error
    except BaseException as error:  # SystemExit too, which would end the thread or the loop that waits for it
        raise LoadFailed(f"loading {request.model}: {type(error).__name__}: {error}") from error
    if form == "step":
        return StepLoop(cast(StepEngine, loaded))
    if form == "generator":
        return GeneratorLoop(cast(GeneratorEngine, loaded))
    raise LoadFailed(f"the {engine} engine has the form {form!r}, which does not run in a thread of its own")


class Stepper:
    """Turns a loop until `Close` comes through the inbox: commands first, then one step, then its outcomes.

    A request with a constraint joins the loop once its mask is made; nobody waits for that meanwhile.
    """

    def __init__(self, loop: EngineLoop, inbox: SimpleQueue[Command], deliver: Callable[[list[Outcome]], None]) -> None:
        self._loop = loop
        self._inbox = inbox
        self._deliver = deliver
        self._step_began_s: float | None = None
        self._masking = Masking(loop.engine.info, loop.engine.tokenizer, inbox.put)
        self._unmasked: dict[int, Callable[[], object]] = {}

    @property
    def step_s(self) -> float:
        """How long the step under way has taken so far, 0 between steps. For other threads."""
        began = self._step_began_s
        return 0.0 if began is None else time.monotonic() - began

    def run(self) -> None:
        """Returns after `Close`. Raises what a broken engine's step raises."""
        try:
            self._run()
        finally:
            self._masking.close()

    def _run(self) -> None:
        loop, inbox = self._loop, self._inbox
        while True:
            while not inbox.empty() or not loop.unfinished():
                command = inbox.get()
                if isinstance(command, Add):
                    self._add(command.request_id, request_of(command))
                elif isinstance(command, Masked):
                    self._add_masked(command)
                elif isinstance(command, Abort):
                    self._abort(command.request_id)
                else:
                    return
            self._step_began_s = time.monotonic()
            outcomes = loop.step()
            self._step_began_s = None
            if outcomes:
                self._deliver(outcomes)

    def _add(self, request_id: int, request: Request) -> None:
        if isinstance(request, CompletionRequest) and request.constraint is not None:
            self._unmasked[request_id] = self._masking.begin(request_id, request, request.constraint)
        else:
            self._loop.add(request_id, request)

    def _abort(self, request_id: int) -> None:
        give_up = self._unmasked.pop(request_id, None)
        if give_up is None:
            self._loop.abort(request_id)
        else:
            give_up()  # others wait for their masks behind it

    def _add_masked(self, masked: Masked) -> None:
        if self._unmasked.pop(masked.request_id, None) is None:  # aborted
            return
        if isinstance(masked.mask, ErrorInfo):
            self._deliver([(masked.request_id, masked.mask)])
        else:
            self._loop.add(masked.request_id, masked.request, masked.mask)

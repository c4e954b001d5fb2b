"""One model in memory or being loaded, with all who wait for it or use it, as a state machine: `Resident`.

    loading ──→ loaded ──→ gone
       └──────────────────↗

A loaded model is leased or idle. An idle one has a timer, unless it stays until it is unloaded; a leased one may be
*leaving*: it accepts no new leases and is unloaded after its last one.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

import msgspec

from corral.core.error_translation import to_error
from corral.core.errors import CorralError, LoadFailed, ServerBusy
from corral.core.models.model import StoredModel
from corral.core.models.names import ModelName
from corral.core.ports.runners import Runner
from corral.core.ports.running import RunningModel
from corral.core.scheduling.engine_choice import Candidate
from corral.core.scheduling.keep_alive import KeepAlive
from corral.core.scheduling.load_progress import LoadListener, LoadProgress
from corral.core.scheduling.sharing import FilesKey, LoadedAs

__all__ = ("SHUTTING_DOWN", "Resident")

_log = logging.getLogger(__name__)

SHUTTING_DOWN = "the server is shutting down"


class Resident:
    """A model in memory or on its way there, for one engine and one set of load options.

    `options` are load options, as the engine's own Struct. With a `derivation`, the engine loads its result in place of
    the model. `names` are all names it was leased under. `on_expired` is called when the keep-alive time of an idle
    model is over. A method called in a state that does not allow it raises `AssertionError`.
    """

    def __init__(
        self,
        record: StoredModel,
        engine: Candidate,
        runner: Runner,
        *,
        keep_alive_s: float | None,
        clock_s: Callable[[], float],
        on_expired: Callable[[Resident], object],
    ) -> None:
        self.record = record
        self.spec = engine.spec
        self.options = engine.options
        self.derivation = engine.match.derive
        self.runner = runner
        self.loaded_as = LoadedAs(record, engine)
        self.names = frozenset({record.name.key})
        self._state: Literal["loading", "loaded", "gone"] = "loading"
        self._load: asyncio.Task[RunningModel | None] | None = None
        self._model: RunningModel | None = None
        self._listeners: list[LoadListener] = []
        self._estimate: Mapping[str, int] = {}
        self._placed = False
        self._owners: Counter[str] = Counter()
        self._draining = False
        self._giving_way = False
        self._keep_alive = KeepAlive(keep_alive_s, clock_s=clock_s, on_expired=lambda: on_expired(self))

    # ── State ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def model(self) -> RunningModel | None:
        """The loaded model; None while it loads and once it is gone."""
        return self._model

    @property
    def loading(self) -> bool:
        return self._state == "loading"

    @property
    def gone(self) -> bool:
        return self._state == "gone"

    @property
    def dead(self) -> bool:
        """Whether it was loaded, but its process or connection has failed since."""
        return self._model is not None and not self._model.alive

    @property
    def idle(self) -> bool:
        return self._state == "loaded" and not self._owners

    @property
    def leases(self) -> int:
        """How many leases there are, including those that wait for the load."""
        return self._owners.total()

    def waiting_of(self, owner: str) -> int:
        """How many of this owner's leases wait for the load or for a free stream, at most: engines decide whose do."""
        mine = self._owners[owner]
        return mine if self._model is None else min(mine, max(0, self.leases - self._model.info.parallel))

    @property
    def full(self) -> bool:
        """Whether another lease would have to wait."""
        return self._model is None or self.leases >= self._model.info.parallel

    @property
    def leaving(self) -> bool:
        return self._draining or self._giving_way

    @property
    def finished(self) -> bool:
        """Whether nobody uses it and nothing keeps it in memory."""
        if self._owners or self.gone:
            return False
        return self.loading or self.leaving or self._keep_alive.duration_s == 0 or self.dead

    @property
    def placed(self) -> bool:
        """Whether its memory is reserved."""
        return self._placed

    @property
    def estimate(self) -> Mapping[str, int]:
        """The bytes it takes, by device; empty until they are known. A loaded model says it itself: it may grow."""
        said = {} if self._model is None else self._model.info.memory_bytes
        return {**self._estimate, **{device: said[device] for device in self._estimate if device in said}}

    @property
    def expires_at_s(self) -> float:
        """When it will be unloaded if nobody uses it from now on, as a time of the clock; infinite means never."""
        return self._keep_alive.end_if_started_now_s() if self._owners else self._keep_alive.ends_at_s

    @property
    def keep_alive_s(self) -> float:
        """How long it stays after its last use; infinite means until it is unloaded."""
        return math.inf if self._keep_alive.duration_s is None else self._keep_alive.duration_s

    def serves(self, files: FilesKey, engine: Candidate) -> bool:
        """Whether it accepts leases, and a request for these files on this engine can use it."""
        return not self.leaving and self.loaded_as.serves(files, engine)

    def same_weights(self, other: Resident) -> bool:
        """Whether both are the same model on the same engine, with whatever options: one replaces the other."""
        return self.loaded_as.same_weights(other.loaded_as)

    # ── Loading ───────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, load: Callable[[Resident], Awaitable[RunningModel]]) -> asyncio.Task[RunningModel | None]:
        """Run its load in a task, which ends when the model is loaded or has freed its memory.

        If the load fails, the model is gone.
        """
        assert self._load is None, "started twice"
        self._load = asyncio.create_task(self._run_load(load), name=f"load {self.record.name.short}")
        self._load.add_done_callback(self._load_ended)
        return self._load

    async def _run_load(self, load: Callable[[Resident], Awaitable[RunningModel]]) -> RunningModel | None:
        model = await load(self)
        if self.gone:  # it was cancelled too late for the load to notice
            await _close(model, self.record.name)
            return None
        self._model = model
        self._become("loaded")
        return model

    def _load_ended(self, load: asyncio.Task[RunningModel | None]) -> None:
        if self.loading:
            self._become("gone")
        if not load.cancelled():
            load.exception()  # raised by those who wait; asyncio need not report it

    def require(self, estimate: Mapping[str, int]) -> None:
        """Set how much memory it needs, before that is reserved."""
        assert self._state != "loaded", "it has its memory already"
        self._estimate = estimate
        self._placed = False

    def place(self) -> None:
        """Reserve its memory."""
        self._placed = True

    def report(self, progress: LoadProgress) -> None:
        """Tell everyone who waits for the load."""
        for listener in list(self._listeners):
            try:
                listener(progress)
            except Exception:  # one caller's fault, while the load serves all of them
                _log.exception("%s %s: a progress callback failed", progress.stage, self.record.name.short)

    async def loaded(self, on_progress: LoadListener | None) -> RunningModel:
        """The model, once it is loaded. If it has died or been closed since, its first request says why. Cancelling
        this does not cancel the load.

        Raises what the load raised, and `ServerBusy` if it was cancelled.
        """
        assert self._load is not None, "not started"
        if on_progress is not None:
            self._listeners.append(on_progress)
        try:
            await asyncio.wait([self._load])
        finally:
            if on_progress is not None:
                self._listeners.remove(on_progress)
        error = None if self._load.cancelled() else self._load.exception()
        if isinstance(error, CorralError):
            raise to_error(error.info) from error  # one object raised in many tasks would collect their tracebacks
        if error is not None:
            raise LoadFailed(f"loading {self.record.name.short}: {error}") from error
        model = None if self._load.cancelled() else self._load.result()
        if model is None:
            raise ServerBusy(SHUTTING_DOWN)
        return model

    # ── Leases ────────────────────────────────────────────────────────────────────────────────────────────────────

    def lease(self, name: ModelName, keep_alive_s: float | msgspec.UnsetType | None, owner: str) -> None:
        """Add a lease of this owner under this name. A keep-alive that is given applies to later leases as well."""
        assert not self.gone, "it has gone"
        assert not self.leaving, "it accepts no leases"
        self._owners[owner] += 1
        if name.key not in self.names:
            self.names |= {name.key}
        if self.record.remote:
            self._keep_alive.duration_s = None  # it holds no memory, so it stays until it is unloaded
        elif keep_alive_s is not msgspec.UNSET:
            self._keep_alive.duration_s = keep_alive_s
        self._keep_alive.stop()
        self._check()

    def give_back(self, owner: str) -> None:
        """End a lease of this owner. After the last one the keep-alive of a loaded model starts, unless `finished`."""
        self._owners[owner] -= 1
        assert self._owners[owner] >= 0
        if not self._owners[owner]:
            del self._owners[owner]
        if self.idle and not self.finished:
            self._keep_alive.start()
        self._check()

    # ── Leaving ───────────────────────────────────────────────────────────────────────────────────────────────────

    def drain(self) -> None:
        """Accept no new leases, for good."""
        self._draining = True

    def give_way(self) -> None:
        """Accept no new leases while another model waits for its memory."""
        self._giving_way = True

    def stay(self) -> None:
        """No model waits for its memory any more."""
        self._giving_way = False

    def leave(self) -> asyncio.Task[object]:
        """Stop its load, or close the model; the task ends when its memory is free."""
        if self.loading:
            assert self._load is not None, "not started"
            self._become("gone")
            self._load.cancel()
            return self._load
        model = self._model
        assert model is not None, "it has gone already"
        self._model = None
        self._become("gone")
        return asyncio.create_task(_close(model, self.record.name), name=f"unload {self.record.name.short}")

    def _become(self, state: Literal["loaded", "gone"]) -> None:
        assert self._state != "gone", "it has gone already"
        self._state = state
        self._keep_alive.stop()
        self._check()

    def _check(self) -> None:
        assert (self._model is not None) == (self._state == "loaded")
        assert self.idle or not self._keep_alive.running, "only an idle model has a timer"


async def _close(model: RunningModel, name: ModelName) -> None:
    try:
        await model.aclose()
    except Exception:
        _log.exception("unloading %s", name.short)

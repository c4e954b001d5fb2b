"""An engine works in the background while it has no requests, and says when it has changed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import msgspec
import pytest

from corral.adapters.engines.fake import FakeEngine, FakeLoadOptions
from corral.adapters.runners.frames import Add, Close
from corral.adapters.runners.process import ProcessRunner
from corral.adapters.runners.stepping import Command, Stepper
from corral.adapters.runners.thread import ThreadRunner
from corral.core.ports.runners import OnLoadProgress, Runner
from corral.core.requests.outputs import Finished
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, SamplingParams
from corral.core.specs.engines import EngineSpec, LoadRequest, Match
from corral.core.stepping.loops import Outcome, StepLoop

REQUEST = CompletionRequest(prompt=(TextPart(text="x"),), sampling=SamplingParams(temperature=0.0))


class Idler(FakeEngine):
    """The fake engine, which idles as the test says."""

    def __init__(self, idle: Callable[[], float | None]) -> None:
        super().__init__(FakeLoadOptions(answer="one two three"))
        self._idle = idle

    def idle(self) -> float | None:
        return self._idle()


class Grower(FakeEngine):
    """The fake engine, which takes one more request at once whenever it idles, up to three."""

    def idle(self) -> float | None:
        self.info = msgspec.structs.replace(self.info, parallel=self.info.parallel + 1)
        return 0.0 if self.info.parallel < 3 else None


def load_grower(request: LoadRequest, on_progress: OnLoadProgress) -> Grower:
    return Grower(FakeLoadOptions(parallel=1))


def run(engine: FakeEngine, inbox: SimpleQueue[Command]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    stepper = threading.Thread(target=Stepper(StepLoop(engine), inbox, outcomes.extend).run)
    stepper.start()
    stepper.join(10)
    assert not stepper.is_alive()
    return outcomes


def test_idle_until_there_is_nothing_to_do() -> None:
    """An engine is asked again after the time that it names, until it has nothing to do."""
    inbox: SimpleQueue[Command] = SimpleQueue()
    waits = [0.0, 0.001, None]
    asked: list[float | None] = []

    def idle() -> float | None:
        asked.append(waits[len(asked)])
        if asked[-1] is None:
            inbox.put(Close())
        return asked[-1]

    run(Idler(idle), inbox)
    assert asked == waits


def test_a_request_ends_the_idling() -> None:
    """A request that arrives while the engine has more to do is answered first, and the engine idles again later."""
    inbox: SimpleQueue[Command] = SimpleQueue()
    calls = 0
    unfinished: list[bool] = []

    def idle() -> float | None:
        nonlocal calls
        calls += 1
        unfinished.append(engine.has_unfinished_requests())
        inbox.put(Add(1, REQUEST) if calls == 1 else Close())
        return 0.0

    engine = Idler(idle)
    outcomes = run(engine, inbox)
    assert [type(item) for _, item in outcomes].count(Finished) == 1
    assert unfinished == [False, False]


def test_an_idle_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """What `idle` raises is logged, and the next request is answered all the same."""
    inbox: SimpleQueue[Command] = SimpleQueue()
    calls = 0

    def idle() -> float | None:
        nonlocal calls
        calls += 1
        inbox.put(Add(1, REQUEST) if calls == 1 else Close())
        raise RuntimeError("the disk is on fire")

    outcomes = run(Idler(idle), inbox)
    assert [type(item) for _, item in outcomes].count(Finished) == 1
    assert "the disk is on fire" in caplog.text


@pytest.mark.parametrize("runner", [ThreadRunner(), ProcessRunner()], ids=["thread", "process"])
def test_what_changes_is_reported(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """`info` of the running model is what the engine says after it has changed."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    spec = EngineSpec(
        name="grower",
        summary="Grows while it idles.",
        form="step",
        load=f"{__name__}:load_grower",
        match=lambda model, metadata, options: Match(score=1, reason="always"),
        estimate=lambda record, metadata, options: {},
    )

    async def told() -> int:
        model = await runner.load(spec, LoadRequest(model="grower", files=()), lambda share: None)
        try:
            for _ in range(2000):
                if model.info.parallel == 3:
                    break
                await asyncio.sleep(0.01)
            return model.info.parallel
        finally:
            await model.aclose()

    assert asyncio.run(told()) == 3

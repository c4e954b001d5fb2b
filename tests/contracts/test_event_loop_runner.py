"""The event-loop runner: its port's suite, and how it handles engines that break their promises."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from corral.adapters.engines.fake import SPEC
from corral.adapters.runners.event_loop import EventLoopRunner
from corral.core.errors import (
    CorralError,
    EngineDied,
    EngineError,
    EngineNotInstalled,
    InvalidRequest,
    LoadFailed,
    OutOfMemory,
)
from corral.core.ports.runners import OnLoadProgress, Runner
from corral.core.ports.running import RunningModel
from corral.core.requests.outputs import Delta, Finished, Output
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest
from corral.core.specs.engines import EngineSpec, LoadRequest
from corral.core.wording.pip_lines import pip_line
from corral.plugins.testing.runner import RunnerContract

ENGINES = '''
"""Engines that are a running model by themselves."""

import asyncio

from corral.adapters.engines.fake import SPEC
from corral.adapters.runners.thread import ThreadRunner
from corral.core.errors import CorralError, ServerBusy
from corral.core.requests.outputs import Delta, Finished, Started, Usage
from corral.core.ports.running import ModelInfo


async def fake(request, on_progress):
    return await ThreadRunner().load(SPEC, request, on_progress)


class Odd:
    """Does what the model's name says."""

    def __init__(self, trouble):
        self.trouble = trouble
        self.info = ModelInfo(tasks=frozenset({"completion"}))
        self.alive = True
        self.closed = 0

    async def run(self, request):
        yield Started(prompt_tokens=1)
        yield Delta(text="a", token_count=1)
        if self.trouble == "raises":
            raise KeyError("no such row")
        if self.trouble == "cancels":
            raise asyncio.CancelledError
        if self.trouble == "ends":
            return
        if self.trouble == "busy":
            raise ServerBusy("come back later")
        if self.trouble == "hangs":
            await asyncio.Event().wait()
        if self.trouble == "surrogates":
            "\\ud800".encode()
        while self.trouble == "never ends":
            yield Delta(text="word " * 200, token_count=200)
            self.said = getattr(self, "said", 0) + 1
            await asyncio.sleep(0)
        yield Finished(reason="stop", usage=Usage(generated_tokens=1))

    async def tokenize(self, prompts, *, most=None, cut=False):
        raise KeyError("no tokenizer")

    async def detokenize(self, ids):
        raise KeyError("no tokenizer")

    async def aclose(self):
        self.closed += 1
        if self.trouble == "close":
            raise OSError("cannot close")


def odd(request, on_progress):
    return Odd(request.model)


def broken(request, on_progress):
    raise {"missing": ImportError("no module named x"), "memory": MemoryError(), "other": KeyError("k")}[request.model]
'''


@pytest.fixture(autouse=True)
def _engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "running_engines.py").write_text(ENGINES)
    monkeypatch.syspath_prepend(tmp_path)


def spec_of(name: str, **fields: Any) -> EngineSpec:
    return msgspec.structs.replace(
        SPEC, form="running", runners=("event_loop",), load=f"running_engines:{name}", **fields
    )


class RunningFake:
    """The runner under test, with an engine of the form ``running`` in place of the fake engine."""

    name = "event_loop"

    async def load(self, spec: EngineSpec, request: LoadRequest, on_progress: OnLoadProgress) -> RunningModel:
        return await EventLoopRunner().load(spec_of("fake"), request, on_progress)


class TestEventLoopRunner(RunnerContract):
    @pytest.fixture
    def runner(self) -> Runner:
        return RunningFake()


async def load(engine: str, model: str, **fields: Any) -> RunningModel:
    request = LoadRequest(model=model, files=())
    return await EventLoopRunner().load(spec_of(engine, **fields), request, lambda share: None)


def prompt() -> CompletionRequest:
    return CompletionRequest(prompt=(TextPart(text="a"),))


async def collect(model: RunningModel, seen: list[Output] | None = None) -> list[Output]:
    seen = [] if seen is None else seen
    async for output in model.run(prompt()):
        seen.append(output)
    return seen


@pytest.mark.parametrize(
    ("trouble", "kind", "text"),
    [
        ("raises", EngineError, "the engine raised KeyError: 'no such row'"),
        ("cancels", EngineError, "cancelled its answer"),
        ("ends", EngineError, "ended its answer without a reason"),
        ("busy", CorralError, "come back later"),
        ("surrogates", InvalidRequest, "not valid Unicode"),
    ],
)
def test_an_answer_that_goes_wrong(trouble: str, kind: type[CorralError], text: str) -> None:
    """The reader gets the outputs so far, then one of our errors; the model continues."""

    async def check() -> None:
        model = await load("odd", trouble)
        seen: list[Output] = []
        with pytest.raises(kind, match=text):
            await collect(model, seen)
        assert any(isinstance(output, Delta) for output in seen)
        assert model.alive
        await model.aclose()

    asyncio.run(check())


def test_a_reader_who_does_not_read() -> None:
    """An engine does not get far ahead of its reader, and continues when the reader does."""

    async def check() -> None:
        model: Any = await load("odd", "never ends")
        outputs = model.run(prompt())
        await anext(outputs)
        said: list[int] = []
        for _ in range(3):
            for _ in range(2000):  # turns of the loop; the engine says a kilobyte in each that it gets
                await asyncio.sleep(0)
            said.append(model._model.said)
            read = 0
            while read < 100_000:
                output = await anext(outputs)
                read += len(output.text) if isinstance(output, Delta) else 0
        assert 0 < said[0] < said[1] < said[2] < 1000
        await outputs.aclose()
        await model.aclose()

    asyncio.run(check())


def test_tokenizing_that_goes_wrong() -> None:
    """It raises one of our errors, too."""

    async def check() -> None:
        model = await load("odd", "fine")
        assert isinstance((await collect(model))[-1], Finished)
        with pytest.raises(EngineError, match="no tokenizer"):
            await model.tokenize([(TextPart(text="a"),)])
        with pytest.raises(EngineError, match="no tokenizer"):
            await model.detokenize([1])
        await model.aclose()

    asyncio.run(check())


@pytest.mark.parametrize(
    ("model", "kind", "text"),
    [
        ("missing", EngineNotInstalled, "no module named x"),
        ("memory", OutOfMemory, "out of memory"),
        ("other", LoadFailed, "KeyError"),
    ],
)
def test_a_load_that_raises(model: str, kind: type[CorralError], text: str) -> None:
    """Foreign exceptions become the errors that runners raise; the error for a missing package has the pip line."""
    with pytest.raises(kind, match=text) as caught:
        asyncio.run(load("broken", model, install_hint="pip install it"))
    assert caught.value.remedy == (pip_line("it") if model == "missing" else None)


def test_an_engine_of_another_form() -> None:
    """Batching engines would block the loop: they are refused."""

    async def check() -> None:
        with pytest.raises(LoadFailed, match="form 'step'"):
            await EventLoopRunner().load(SPEC, LoadRequest(model="m", files=()), lambda share: None)

    asyncio.run(check())


def test_closing_while_an_answer_hangs() -> None:
    """The reader gets an error that the model was unloaded, even if the engine never answers again."""

    async def check() -> None:
        model = await load("odd", "hangs")
        reader = asyncio.create_task(collect(model))
        await asyncio.sleep(0)
        await model.aclose()
        with pytest.raises(EngineDied):
            await reader

    asyncio.run(check())


def test_an_engine_that_cannot_close() -> None:
    """It is logged, and the model counts as closed."""

    async def check() -> None:
        model = await load("odd", "close")
        await model.aclose()
        assert not model.alive

    asyncio.run(check())

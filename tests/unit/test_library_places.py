"""Where a Corral may be used: in its own process and on its own event loop, and the errors elsewhere."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest

from corral import AsyncCorral, Corral
from corral.api.library.portal import Portal
from corral.plugins.testing.gguf import gguf_bytes

MODEL = "small:latest"
LONG = {"engines.fake.step_delay_s": 0.02, "engines.fake.answer": "one two three four five six seven eight " * 50}

PARENT = """
import asyncio, gc, multiprocessing, os, sys, threading
from corral import AsyncCorral, Corral

setup = {"models": sys.argv[1], "engine": "fake", "config": "", "runner": sys.argv[2]}
corral, preloaded = Corral(**setup), AsyncCorral(**setup)
assert corral.generate("small", "hello").text
stream = corral.generate("small", "hello", stream=True)
next(stream)

def ends():
    pass

def uses():
    for call in (corral.list, lambda: corral.generate("small", "hello"), lambda: next(stream), corral.runtime):
        try:
            call()
        except RuntimeError as refused:
            assert "create a Corral in each child process" in str(refused), refused
        else:
            raise AssertionError("the child was answered")

def closes():
    stream.close()
    with corral:
        pass

def drops():
    global stream
    stream = None
    gc.collect()

def makes_its_own():
    with Corral(**setup) as own:
        assert own.generate("small", "hello").text

def uses_what_nobody_used():
    async def main():
        async with preloaded:
            assert (await preloaded.generate("small", "hello")).text
    asyncio.run(main())

for work in (ends, uses, closes, drops, makes_its_own, uses_what_nobody_used):
    child = os.fork()
    if child == 0:
        alarm = threading.Timer(15, os._exit, (7,))
        alarm.daemon = True
        alarm.start()
        work()
        sys.exit(0)
    print(work.__name__, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
process = multiprocessing.get_context("fork").Process(target=uses)
process.start()
process.join(15)
print("multiprocessing", process.exitcode, flush=True)
list(stream)
print("parent", bool(stream.result.text), bool(corral.generate("small", "hello").text))
corral.close()
"""


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The arguments of a Corral with a store of one model and the fake engine."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "small.gguf").write_bytes(gguf_bytes())
    setup: dict[str, Any] = {"models": folder / "store", "engine": "fake", "config": ""}
    with Corral(**setup) as client:
        client.import_model(folder / "small.gguf", name=MODEL)
    return setup


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("runner", ["thread", "process"])
def test_a_forked_child(setup: dict[str, Any], runner: str) -> None:
    """It exits at once; using its parent's Corral is refused with a remedy, its own works, and the parent's open stream
    continues.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", PARENT, str(setup["models"]), runner],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        *(f"{work} 0" for work in ("ends", "uses", "closes", "drops", "makes_its_own", "uses_what_nobody_used")),
        "multiprocessing 0",
        "parent True True",
    ]


def test_a_corral_is_not_copied_into_another_process(setup: dict[str, Any]) -> None:
    """Pickling and copying it are errors that say what to do instead."""
    with Corral(**setup) as client:
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="create one in each process"):
                attempt(client)


def test_a_second_event_loop_is_refused(setup: dict[str, Any]) -> None:
    """Every method, including `aclose`, refuses, and the error mentions `asyncio.run`; a new object works there."""
    client = AsyncCorral(**setup)

    async def first() -> Any:
        assert (await client.generate(MODEL, "hello")).text
        return await client.generate(MODEL, "hello", stream=True)

    async def second(stream: Any) -> None:
        for refused in (client.list, client.aclose, client.__aenter__, lambda: client.generate(MODEL, "hello")):
            with pytest.raises(RuntimeError, match=r"each asyncio\.run creates a new one"):
                await refused()
        with pytest.raises(RuntimeError, match="belongs to the event loop"):
            await anext(stream)
        async with AsyncCorral(**setup) as other:
            assert (await other.generate(MODEL, "hello")).text

    with asyncio.Runner() as runner:
        stream = runner.run(first())
        asyncio.set_event_loop(None)
        thread = threading.Thread(target=asyncio.run, args=(second(stream),))
        thread.start()
        thread.join()
        runner.run(stream.aclose())
        runner.run(client.aclose())

    async def afterwards() -> None:
        await client.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await client.list()

    asyncio.run(afterwards())


def test_two_readers_of_one_stream(setup: dict[str, Any]) -> None:
    """The second is refused with a clear error, and the first reads to the end."""

    async def main() -> None:
        async with AsyncCorral(**setup, settings=LONG) as client:
            stream = await client.generate(MODEL, "hello", stream=True, options={"num_predict": 8})
            reading = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="already being read"):
                await anext(stream)
            await reading
            async for _ in stream:
                pass
            assert stream.result.usage.generated_tokens == 8

    asyncio.run(main())


def test_a_stream_is_closed_after_its_corral(setup: dict[str, Any]) -> None:
    """Closing it then does nothing, as does closing twice; reading on is an error."""
    client = Corral(**setup, settings=LONG)
    with client.generate(MODEL, "hello", stream=True) as stream:
        next(stream)
        client.close()
    stream.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(stream)


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt()])
def test_a_call_that_would_end_the_loop(raised: BaseException) -> None:
    """What a call raises reaches its caller, and the next call is answered."""
    portal = Portal("test")

    async def fail() -> None:
        raise raised

    async def answer() -> int:
        return 1

    try:
        with pytest.raises(type(raised)):
            portal.call(fail)
        assert portal.call(answer) == 1
    finally:
        portal.close()

"""What can happen only with real processes: crashes, stopped children, dead parents, full sockets."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from corral.adapters.engines.fake import SPEC
from corral.adapters.runners.process import ProcessModel, ProcessRunner
from corral.adapters.runners.settings import ProcessSettings
from corral.core.errors import EngineDied, EngineNotInstalled, EngineStalled, LoadFailed
from corral.core.requests.outputs import Delta, Finished, Output
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, SamplingParams
from corral.core.specs.engines import LoadRequest
from corral.core.wording.pip_lines import pip_line
from tests.orphans import runs

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the process runner is for POSIX systems")


def endless(tokens: int = 100_000) -> CompletionRequest:
    sampling = SamplingParams(num_predict=tokens, ignore_eos=True, seed=1)
    return CompletionRequest(prompt=(TextPart(text="count"),), sampling=sampling)


@asynccontextmanager
async def loaded(settings: ProcessSettings | None = None, **load_options: Any) -> AsyncGenerator[ProcessModel, None]:
    request = LoadRequest(model="toy:latest", files=(), load_options=load_options)
    model = await ProcessRunner(settings).load(SPEC, request, lambda share: None)
    try:
        yield model
    finally:
        await model.aclose()


async def collect(outputs: AsyncGenerator[Output, None]) -> list[Output]:
    return [output async for output in outputs]


def process_id(model: ProcessModel) -> int:
    assert model.info.process_id is not None
    return model.info.process_id


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def gone(pid: int, exists: Callable[[int], bool] = exists) -> bool:
    """Whether a process ends; the limit is for a test that fails."""
    deadline = time.monotonic() + 30
    while exists(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_killed_child() -> None:
    """SIGKILL of the child fails its requests with the signal's name, and leaves no zombie."""

    async def check() -> None:
        async with loaded(step_delay_s=0.01) as model:
            running = [asyncio.create_task(collect(model.run(endless()))) for _ in range(3)]
            await asyncio.sleep(0.1)
            os.kill(process_id(model), signal.SIGKILL)
            async with asyncio.timeout(30):
                results = await asyncio.gather(*running, return_exceptions=True)
            assert all(isinstance(result, EngineDied) for result in results)
            assert "SIGKILL" in str(results[0])
            assert "toy:latest" in str(results[0])
            assert not model.alive
            assert gone(process_id(model))

    asyncio.run(check())


def test_a_child_that_crashes_by_itself() -> None:
    """A crash in the middle of an answer ends it with `EngineDied`, and tokenizer calls too."""

    async def check() -> None:
        async with loaded(crash_after=5) as model:
            with pytest.raises(EngineDied, match="SIGKILL"):
                await collect(model.run(endless()))
            with pytest.raises(EngineDied):
                await model.tokenize([()])

    asyncio.run(check())


def test_a_crash_while_loading() -> None:
    """A child that dies while it loads is `EngineDied` and does not block forever."""

    async def check() -> None:
        with pytest.raises(EngineDied, match="SIGKILL"):
            async with loaded(crash_on_load=True):
                pass

    asyncio.run(check())


def test_a_stopped_child() -> None:
    """A child that is stopped counts as stalled after the heartbeat limit, and is killed."""

    async def check() -> None:
        async with loaded(ProcessSettings(heartbeat_timeout_s=0.6), step_delay_s=0.01) as model:
            running = asyncio.create_task(collect(model.run(endless())))
            await asyncio.sleep(0.1)
            os.kill(process_id(model), signal.SIGSTOP)
            with pytest.raises(EngineStalled, match=r"did not respond for 0\.6 s"):
                async with asyncio.timeout(30):
                    await running
            assert not model.alive
            assert gone(process_id(model))

    asyncio.run(check())


def test_an_idle_child_is_not_stalled() -> None:
    """Heartbeats keep an idle model alive, and one whose steps are long."""

    async def check() -> None:
        async with loaded(ProcessSettings(heartbeat_timeout_s=0.6), step_delay_s=0.9) as model:
            await asyncio.sleep(0.9)
            assert model.alive
            assert isinstance((await collect(model.run(endless(1))))[-1], Finished)

    asyncio.run(check())


def test_a_step_that_never_ends() -> None:
    """A step past its limit counts as stalled, even if heartbeats continue."""

    async def check() -> None:
        settings = ProcessSettings(heartbeat_timeout_s=4.0, step_timeout_s=0.5)
        async with loaded(settings, hang_after=3) as model:
            with pytest.raises(EngineStalled, match="stuck in one step"):
                await collect(model.run(endless()))

    asyncio.run(check())


def test_closing_a_child_that_will_not_listen() -> None:
    """Unloading a stopped child kills it after the grace period."""

    async def check() -> None:
        async with loaded(ProcessSettings(close_grace_s=0.2)) as model:
            os.kill(process_id(model), signal.SIGSTOP)
        assert gone(process_id(model))

    asyncio.run(check())


def test_a_cancelled_load_leaves_no_child() -> None:
    """Cancelling a load that hangs ends its process before the call returns."""

    async def check() -> None:
        before = children()
        hanging = asyncio.Event()
        request = LoadRequest(model="m", files=(), load_options={"hang_on_load": True})
        loading = asyncio.create_task(ProcessRunner().load(SPEC, request, lambda share: hanging.set()))
        await hanging.wait()
        assert len(children()) == len(before) + 1
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        assert children() == before

    asyncio.run(check())


def children() -> set[int]:
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listing.splitlines()]
    listed = {int(pid) for pid, parent in rows if int(parent) == os.getpid()}
    return {pid for pid in listed if exists(pid)}


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_nothing_is_left_behind() -> None:
    """After many loads and unloads there are as many descriptors and threads as before."""

    async def check() -> None:
        async with loaded():
            pass
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            async with loaded() as model:
                await collect(model.run(endless(3)))
        for _ in range(1000):  # the last child may still be on its way out
            if len(os.listdir("/proc/self/fd")) <= before:
                return
            await asyncio.sleep(0.01)
        pytest.fail("descriptors are left open")

    asyncio.run(check())


@pytest.mark.parametrize("hang", ["nothing", "hang_on_load"])
def test_killing_the_parent_leaves_no_child(hang: str, tmp_path: Path) -> None:
    """SIGKILL of the parent ends the child, even while it loads."""
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import asyncio, os, sys
            from corral.adapters.engines.fake import SPEC
            from corral.adapters.runners.process import ProcessRunner
            from corral.core.specs.engines import LoadRequest

            async def main():
                def on_progress(share):
                    print("loading", flush=True)
                request = LoadRequest(model="m", files=(), load_options={{"hang_on_load": {hang == "hang_on_load"}}})
                model = await ProcessRunner().load(SPEC, request, on_progress)
                print("ready", flush=True)
                await asyncio.sleep(60)

            asyncio.run(main())
            """
        )
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        wanted = "loading" if hang == "hang_on_load" else "ready"
        while parent.stdout.readline().strip() != wanted:
            pass
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        [child] = [int(line.split()[0]) for line in listing.splitlines() if int(line.split()[1]) == parent.pid]
        parent.kill()
    assert gone(child, exists=runs)


def test_cancelled_within_a_step() -> None:
    """Closing a run reaches the engine within two steps, and the freed stream is used at once."""

    async def check() -> None:
        async with loaded(parallel=1, step_delay_s=0.2) as model:
            for _ in range(10):  # until the machine itself holds nothing up
                outputs = model.run(endless())
                await anext(outputs)
                await outputs.aclose()
                started = time.monotonic()
                outputs = model.run(endless())
                await anext(outputs)
                took_s = time.monotonic() - started
                await outputs.aclose()
                # One step may be under way, the next takes the prompt in.
                if took_s < 0.2 * 2 + 0.15:
                    return
            pytest.fail(f"the stream was free after {took_s} s")

    asyncio.run(check())


def test_a_reader_that_stops_does_not_stop_others() -> None:
    """While one reader reads nothing, others get their answers, and the stalled one loses no text."""

    async def check() -> None:
        async with loaded(num_ctx=50_000) as model:
            idle = model.run(endless(5000))
            first = await anext(idle)
            other = await collect(model.run(endless(5000)))
            rest = await collect(idle)
        texts = ["".join(one.text for one in outputs if isinstance(one, Delta)) for outputs in (other, [first, *rest])]
        assert texts[0] == texts[1]

    asyncio.run(check())


def test_a_parent_that_does_not_read_at_all() -> None:
    """While the socket is full, the child keeps stepping, deltas are merged, and no text is lost."""

    async def check() -> None:
        async with loaded(num_ctx=50_000) as model:
            outputs = model.run(endless(20_000))
            read = [await anext(outputs)]
            time.sleep(0.5)  # noqa: ASYNC251 - the event loop itself is held up
            read += await collect(outputs)
        deltas = [output for output in read if isinstance(output, Delta)]
        assert sum(delta.token_count for delta in deltas) == 20_000
        assert len(deltas) < 15_000

    asyncio.run(check())


def test_on_uvloop() -> None:
    """It works on uvloop, which servers use, as on asyncio's own loop."""
    uvloop = pytest.importorskip("uvloop")

    async def check() -> None:
        async with loaded(answer="the time") as model:
            outputs = await collect(model.run(endless(2)))
            assert isinstance(outputs[-1], Finished)
            os.kill(process_id(model), signal.SIGKILL)
            with pytest.raises(EngineDied):
                await collect(model.run(endless()))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(check())


def test_an_engine_of_the_parents_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child finds the same modules as the parent; its last output is part of the error."""
    (tmp_path / "goodbye.py").write_text("import os\ndef load(*_):\n    print('so long')\n    os._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = msgspec.structs.replace(SPEC, load="goodbye:load")

    async def check() -> None:
        with pytest.raises(EngineDied, match="exited with code 3; its last lines: so long"):
            await ProcessRunner().load(spec, LoadRequest(model="m", files=()), lambda share: None)

    asyncio.run(check())


def test_a_load_that_raises_anything() -> None:
    """A foreign exception while loading is `LoadFailed`, which names the exception's class."""
    spec = msgspec.structs.replace(SPEC, load="platform:python_version")

    async def check() -> None:
        with pytest.raises(LoadFailed, match="TypeError"):
            await ProcessRunner().load(spec, LoadRequest(model="m", files=()), lambda share: None)

    asyncio.run(check())


def test_an_engine_that_is_not_installed() -> None:
    """A module that is missing is `EngineNotInstalled`, with the pip line as its remedy."""
    spec = msgspec.structs.replace(SPEC, load="no_such_engine:load", install_hint="pip install corral[toy]")

    async def check() -> None:
        with pytest.raises(EngineNotInstalled) as caught:
            await ProcessRunner().load(spec, LoadRequest(model="m", files=()), lambda share: None)
        assert caught.value.remedy == pip_line("corral[toy]")

    asyncio.run(check())

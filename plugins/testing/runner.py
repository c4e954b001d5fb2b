"""The suite every runner must pass: `RunnerContract`, with the engine that needs no weights."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from corral.adapters.engines.fake import SPEC
from corral.core.errors import EngineDied, EngineError, InvalidRequest, LoadFailed, PromptTooLong, Unsupported
from corral.core.ports.runners import Runner
from corral.core.ports.running import RunningModel
from corral.core.requests.messages import Message
from corral.core.requests.outputs import Delta, Embedded, Finished, Output, Ranked, Started
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import ChatRequest, CompletionRequest, EmbedRequest, SamplingParams
from corral.core.specs.engines import LoadRequest
from corral.plugins.testing.loading import reranking

__all__ = ("RunnerContract",)

_AGES = SamplingParams(num_predict=100_000, ignore_eos=True, seed=1)


def _request(text: str = "count the words", sampling: SamplingParams = SamplingParams(seed=1)) -> CompletionRequest:  # noqa: B008
    return CompletionRequest(prompt=(TextPart(text=text),), sampling=sampling)


async def _collect(outputs: AsyncGenerator[Output, None]) -> list[Output]:
    return [output async for output in outputs]


def _text(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs if isinstance(output, Delta))


class RunnerContract:
    """Subclass it and provide the fixture `runner`."""

    @pytest.fixture
    def runner(self) -> Runner:
        raise NotImplementedError("give a fixture called runner")

    @staticmethod
    async def load(runner: Runner, **load_options: Any) -> RunningModel:
        """The fake engine in this runner."""
        request = LoadRequest(model="fake:latest", files=(), load_options=load_options)
        return await runner.load(SPEC, request, lambda share: None)

    @classmethod
    @asynccontextmanager
    async def model(cls, runner: Runner, **load_options: Any) -> AsyncGenerator[RunningModel, None]:
        """As `load`, but closed at the end."""
        model = await cls.load(runner, **load_options)
        try:
            yield model
        finally:
            await model.aclose()

    def test_a_completion(self, runner: Runner) -> None:
        """A run yields `Started`, deltas, `Finished`, and counts its tokens."""

        async def check() -> None:
            async with self.model(runner, answer="the time has come") as model:
                assert "completion" in model.info.tasks
                outputs = await _collect(model.run(_request()))
            assert isinstance(outputs[0], Started)
            assert _text(outputs) == "the time has come"
            assert isinstance(outputs[-1], Finished)
            assert outputs[-1].reason == "stop"
            assert outputs[-1].usage.prompt_tokens == outputs[0].prompt_tokens
            assert outputs[-1].usage.generated_tokens == 5  # four words and the end

        asyncio.run(check())

    def test_embeddings(self, runner: Runner) -> None:
        """An `EmbedRequest` yields one `Embedded`."""

        async def check() -> None:
            async with self.model(runner) as model:
                [output] = await _collect(
                    model.run(EmbedRequest(inputs=((TextPart(text="a"),), (TextPart(text="b"),))))
                )
            assert isinstance(output, Embedded)
            assert output.vectors.count == 2

        asyncio.run(check())

    def test_scores(self, runner: Runner) -> None:
        """A `RerankRequest` yields one `Ranked`."""

        async def check() -> None:
            async with self.model(runner) as model:
                [output] = await _collect(model.run(reranking("a", "b", "c a")))
            assert isinstance(output, Ranked)
            assert len(output.scores) == 2

        asyncio.run(check())

    def test_progress_is_told(self, runner: Runner) -> None:
        """Progress of the load arrives, in the event loop's own thread."""

        async def check() -> None:
            told: list[float] = []
            loop = asyncio.get_running_loop()

            def on_progress(share: float) -> None:
                assert asyncio.get_running_loop() is loop
                told.append(share)

            model = await runner.load(SPEC, LoadRequest(model="m", files=()), on_progress)
            await model.aclose()
            assert told == [0.0, 1.0]

        asyncio.run(check())

    def test_many_at_once(self, runner: Runner) -> None:
        """Requests run together, and each gets its own text."""

        async def check() -> None:
            async with self.model(runner, parallel=4) as model:
                alone = [_text(await _collect(model.run(_request(f"prompt {index}")))) for index in range(6)]
                together = await asyncio.gather(
                    *(_collect(model.run(_request(f"prompt {index}"))) for index in range(6))
                )
            assert [_text(outputs) for outputs in together] == alone

        asyncio.run(check())

    def test_closing_a_run_aborts_it(self, runner: Runner) -> None:
        """A closed run frees its stream at once: with one stream, the next request is answered."""

        async def check() -> None:
            async with self.model(runner, parallel=1, step_delay_s=0.005) as model:
                endless = model.run(_request(sampling=_AGES))
                await anext(endless)
                await endless.aclose()
                async with asyncio.timeout(5):
                    outputs = await _collect(model.run(_request()))
            assert isinstance(outputs[-1], Finished)

        asyncio.run(check())

    def test_cancelling_the_reader_aborts(self, runner: Runner) -> None:
        """If a task is cancelled while it waits for output, its request is aborted."""

        async def check() -> None:
            async with self.model(runner, parallel=1, step_delay_s=0.005) as model:
                reader = asyncio.create_task(_collect(model.run(_request(sampling=_AGES))))
                await asyncio.sleep(0.05)
                reader.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reader
                async with asyncio.timeout(5):
                    await _collect(model.run(_request()))

        asyncio.run(check())

    def test_a_slow_reader_gets_deltas_merged(self, runner: Runner) -> None:
        """A slow reader gets fewer, longer deltas, with all of the text and the counts."""

        async def check() -> None:
            sampling = SamplingParams(seed=1, num_predict=2000, ignore_eos=True)
            async with self.model(runner) as model:
                outputs = model.run(_request(sampling=sampling))
                read = [await anext(outputs)]
                await asyncio.sleep(0.5)
                read += await _collect(outputs)
                quick = await _collect(model.run(_request(sampling=sampling)))
            deltas = [output for output in read if isinstance(output, Delta)]
            assert len(deltas) < 1000
            assert sum(delta.token_count for delta in deltas) == 2000
            assert _text(read) == _text(quick)

        asyncio.run(check())

    def test_one_request_fails_alone(self, runner: Runner) -> None:
        """The failure of a request is raised to its reader; others continue and the model stays alive."""

        async def check() -> None:
            async with self.model(runner, fail_after=3, num_ctx=64) as model:
                results = await asyncio.gather(
                    *(_collect(model.run(_request(f"prompt {index}"))) for index in range(3)), return_exceptions=True
                )
                assert sum(isinstance(result, EngineError) for result in results) == 1
                with pytest.raises(PromptTooLong):
                    await _collect(model.run(_request("long " * 100)))
                assert model.alive
                await _collect(model.run(_request()))

        asyncio.run(check())

    def test_a_broken_engine_ends_the_model(self, runner: Runner) -> None:
        """A step that raises fails every request with what was raised, and the model is no longer alive."""

        async def check() -> None:
            async with self.model(runner, raise_after=5) as model:
                results = await asyncio.gather(
                    *(_collect(model.run(_request(f"prompt {index}"))) for index in range(3)), return_exceptions=True
                )
                assert all(isinstance(result, EngineError) for result in results)
                assert "configured to raise" in str(results[0])
                assert not model.alive
                with pytest.raises(EngineError):
                    await _collect(model.run(_request()))

        asyncio.run(check())

    def test_an_unknown_task(self, runner: Runner) -> None:
        """A request of a task that the model does not have raises `Unsupported`."""

        async def check() -> None:
            async with self.model(runner) as model:
                with pytest.raises(Unsupported):
                    await _collect(model.run(ChatRequest(messages=(Message(role="user", content="hi"),))))

        asyncio.run(check())

    def test_tokenize(self, runner: Runner) -> None:
        """Tokenizing and detokenizing gives the text again, even while a request runs."""

        async def check() -> None:
            async with self.model(runner, step_delay_s=0.01) as model:
                endless = model.run(_request(sampling=_AGES))
                await anext(endless)
                [ids] = await model.tokenize([(TextPart(text="water and people"),)])
                assert await model.detokenize(ids) == "<|bos|>water and people"
                assert await model.pieces(ids) == [b"<|bos|>", b"water", b" and", b" people"]
                await endless.aclose()

        asyncio.run(check())

    def test_text_that_is_no_unicode(self, runner: Runner) -> None:
        """Half a surrogate pair, which cannot be encoded, is `InvalidRequest`; other requests continue."""

        async def check() -> None:
            async with self.model(runner) as model:
                with pytest.raises(InvalidRequest):
                    await _collect(model.run(_request("a\ud800")))
                with pytest.raises(InvalidRequest):
                    await model.tokenize([(TextPart(text="a\ud800"),)])
                assert isinstance((await _collect(model.run(_request())))[-1], Finished)

        asyncio.run(check())

    def test_a_tokenizer_that_fails(self, runner: Runner) -> None:
        """What an engine's tokenizer raises for an unknown id is raised to its caller alone."""

        async def check() -> None:
            async with self.model(runner) as model:
                for ask in (model.detokenize, model.pieces):
                    with pytest.raises(InvalidRequest):
                        await ask([1 << 30])
                assert await model.tokenize([(TextPart(text="water"),)])

        asyncio.run(check())

    def test_a_load_that_fails(self, runner: Runner) -> None:
        """The engine's own words reach the caller."""

        async def check() -> None:
            with pytest.raises(LoadFailed, match="no such luck"):
                await self.load(runner, fail_on_load="no such luck")

        asyncio.run(check())

    def test_a_cancelled_load(self, runner: Runner) -> None:
        """Cancelling a load returns soon, even if the engine hangs."""

        async def check() -> None:
            loading = asyncio.create_task(self.load(runner, hang_on_load=True))
            await asyncio.sleep(0.3)
            started = time.monotonic()
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading
            assert time.monotonic() - started < 5

        asyncio.run(check())

    def test_closing_ends_the_runs(self, runner: Runner) -> None:
        """`aclose` ends running requests with `EngineDied`; and ends the model. It may be called twice."""

        async def check() -> None:
            model = await self.load(runner, step_delay_s=0.005)
            reader = asyncio.create_task(_collect(model.run(_request(sampling=_AGES))))
            await asyncio.sleep(0.05)
            await asyncio.gather(model.aclose(), model.aclose())
            await model.aclose()
            with pytest.raises(EngineDied):
                await reader
            assert not model.alive
            with pytest.raises(EngineDied):
                await _collect(model.run(_request()))

        asyncio.run(check())

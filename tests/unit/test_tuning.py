"""Tuning: which type is chosen, what is kept and loaded, and that nothing else stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp")

from corral.api.library import AsyncCorral
from corral.core.conversion.comparing import ModelComparer
from corral.core.conversion.tuning import gain_of
from corral.core.errors import InvalidRequest, OutOfSpace, Unsupported
from corral.core.models.model import StoredModel
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.comparisons import Comparison, ModelFigures
from corral.plugins.testing.gguf import gguf_bytes
from tests.tiny_llama import write_tiny_llama


def compared(speed: float, kl: float = 0.001, *, exact: bool = True, measured: bool = True) -> Comparison:
    """A candidate that is so many times as fast as its original."""

    def figures(rate: float, *, exact: bool) -> ModelFigures:
        if not measured:
            return ModelFigures(perplexity=9.0, weights_bytes=1000)
        return ModelFigures(
            perplexity=9.0,
            weights_bytes=1000,
            prompt_per_s=100 * rate,
            decode_per_s=10 * rate,
            eight_per_s=50 * rate,
            exact=exact,
        )

    return Comparison(
        reference=figures(1.0, exact=True),
        candidate=figures(speed, exact=exact),
        kl_divergence=kl,
        same_top=0.99,
        positions=1000,
    )


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> dict[str, Comparison]:
    """What a comparison with a candidate of that type finds, in place of a measurement."""
    found: dict[str, Comparison] = {}

    async def compare(
        self: ModelComparer, reference: StoredModel, candidate: StoredModel, *, on_progress: OnLoadProgress, **more: Any
    ) -> Comparison:
        on_progress(1.0)
        return found[candidate.quantization]

    monkeypatch.setattr(ModelComparer, "compare", compare)
    return found


@asynccontextmanager
async def opened(folder: Path, **settings: object) -> AsyncIterator[AsyncCorral]:
    """A library over a store with the model ``tiny:f16``."""
    file = folder / "tiny.gguf"
    async with AsyncCorral(models=folder / "store", config="", settings=settings) as corral:
        if not file.exists():
            await corral.import_model(write_tiny_llama(file), name="tiny:f16")
        yield corral


async def derived(corral: AsyncCorral) -> list[str]:
    return sorted(
        one.name.model + ":" + one.name.tag
        for one in await corral.list(derived=True)
        if one.name.host == "corral.derived"
    )


async def loaded_type(corral: AsyncCorral) -> str:
    """The type of the weights that are in memory after a load, as the engine calls it."""
    await corral.load("tiny:f16", options={"num_ctx": 64, "num_parallel": 1})
    [one] = await corral.loaded()
    await corral.unload("tiny:f16")
    return str(one.info.details["weights"])


def test_the_fastest_that_stays_close_is_kept(tmp_path: Path, results: dict[str, Comparison]) -> None:
    """Faster ones that differ too much or are not exact are not chosen; the next load has the chosen weights, and
    `untune` ends that. The other candidates are gone, and with the model everything is."""
    results |= {
        "Q8_0": compared(1.5),
        "Q5_0": compared(1.2),
        "Q4_0": compared(3.0, kl=0.3, measured=False),
        "Q4_K_M": compared(2.0, exact=False),
    }

    async def check() -> None:
        async with opened(tmp_path) as corral:
            told: list[float] = []
            report = await corral.tune("tiny:f16", types=["q5_0", "q8_0", "q4_0", "q4_k"], on_progress=told.append)
            assert (report.recommended, report.kept, report.original_kind) == ("Q8_0", True, "F16")
            assert [bool(row.refused) for row in report.rows] == [False, False, True, True]
            assert report.rows[1].gain == pytest.approx(1.5)
            assert report.rows[2].gain is None
            assert told == sorted(told)
            assert told[-1] == 1.0
            assert await derived(corral) == ["llama-cpp:tuned"]
            assert (await corral.tuned("tiny:f16"))["llama-cpp"].quantization == "Q8_0"
            assert "Q8_0" in await loaded_type(corral)
            assert await corral.untune("tiny:f16")
            assert not await corral.untune("tiny:f16")
            assert await derived(corral) == []
            assert "F16" in await loaded_type(corral)
            await corral.tune("tiny:f16", types=["q8_0"])
            await corral.delete("tiny:f16")
            assert await derived(corral) == []
        assert list((tmp_path / "store" / "blobs").iterdir()) == []

    asyncio.run(check())


def test_an_original_that_is_best(tmp_path: Path, results: dict[str, Comparison]) -> None:
    """What is hardly faster is not worth other texts: nothing is kept, and what was kept before is dropped. A trial run
    changes nothing."""
    results |= {"Q8_0": compared(1.5)}

    async def check() -> None:
        async with opened(tmp_path) as corral:
            assert (await corral.tune("tiny:f16", types=["q8_0"], keep=False)).recommended == "Q8_0"
            assert await derived(corral) == []
            await corral.tune("tiny:f16", types=["q8_0"])
            results["Q8_0"] = compared(1.02)
            assert (await corral.tune("tiny:f16", types=["q8_0"], keep=False)).recommended is None
            assert await derived(corral) == ["llama-cpp:tuned"]
            assert (await corral.tune("tiny:f16", types=["q8_0"])).recommended is None
            assert await derived(corral) == []

    asyncio.run(check())


def test_what_could_not_be_measured_decides_nothing(
    tmp_path: Path, results: dict[str, Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full for now is no reason to drop what was kept, nor to say that the original is best."""
    results |= {"Q8_0": compared(1.5)}

    async def full(*arguments: object, **more: object) -> Comparison:
        raise OutOfSpace("no space is left")

    async def check() -> None:
        async with opened(tmp_path) as corral:
            await corral.tune("tiny:f16", types=["q8_0"])
            with monkeypatch.context() as patched:
                patched.setattr(ModelComparer, "compare", full)
                report = await corral.tune("tiny:f16", types=["q8_0", "q5_0"])
                assert (report.recommended, report.kept) == (None, False)
                assert [row.refused for row in report.rows] == ["no space is left"] * 2
                assert await derived(corral) == ["llama-cpp:tuned"]
                await corral.untune("tiny:f16")
        async with opened(tmp_path, **{"engines.llama-cpp.reencode": "auto"}) as corral:
            with monkeypatch.context() as patched:
                patched.setattr(ModelComparer, "compare", full)
                await loaded_type(corral)
                for task in [one for one in asyncio.all_tasks() if one.get_name() == "tune tiny:f16"]:
                    await task
                assert await derived(corral) == []

    asyncio.run(check())


def test_cancelling_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither candidates nor their files; and while they are tried, the store has neither, so that a process that is
    killed leaves only a scratch folder, which a later one removes."""
    begun, work = asyncio.Event(), tmp_path / "store" / ".corral" / "work"

    async def compare(*arguments: object, **more: object) -> Comparison:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(ModelComparer, "compare", compare)

    async def check() -> None:
        async with opened(tmp_path) as corral:
            blobs = set((tmp_path / "store" / "blobs").iterdir())
            task = asyncio.create_task(corral.tune("tiny:f16", types=["q8_0"]))
            await begun.wait()
            assert await derived(corral) == []
            assert set((tmp_path / "store" / "blobs").iterdir()) == blobs
            assert [path.suffix for path in work.rglob("*") if path.is_file() and path.parent != work] == [".gguf"]
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await derived(corral) == []
            assert set((tmp_path / "store" / "blobs").iterdir()) == blobs
            assert [path for path in work.glob("*") if path.is_dir()] == []

    asyncio.run(check())


def test_what_cannot_be_tuned(tmp_path: Path, results: dict[str, Comparison]) -> None:
    """A model elsewhere has no weights; a type that does not exist is named; a matrix that is missing is told."""

    async def check() -> None:
        async with opened(tmp_path) as corral:
            await corral.create("far", "x", remote_host="http://localhost:1")
            with pytest.raises(Unsupported, match="no weights"):
                await corral.tune("far")
            with pytest.raises(InvalidRequest, match="there is no type 'q9'"):
                await corral.tune("tiny:f16", types=["q9"])
            report = await corral.tune("tiny:f16", types=["iq1_s"])
            assert "importance matrix" in report.rows[0].refused
            assert report.original is None

    asyncio.run(check())


def test_an_encoder_is_not_tuned(tmp_path: Path) -> None:
    """It generates no text that types could be compared by: that is said before any is tried."""

    async def check() -> None:
        async with opened(tmp_path) as corral:
            pooled = {"general.architecture": "bert", "bert.block_count": 1, "bert.pooling_type": 1}
            (tmp_path / "encoder.gguf").write_bytes(gguf_bytes(pooled))
            await corral.import_model(tmp_path / "encoder.gguf", name="encoder")
            with pytest.raises(Unsupported, match="encoder:latest generates no text"):
                await corral.tune("encoder", on_progress=lambda share: pytest.fail("a type was tried"))

    asyncio.run(check())


def test_a_type_for_all_weights(tmp_path: Path) -> None:
    """With `reencode`, a model is converted when it is first loaded."""

    async def check() -> None:
        async with opened(tmp_path, **{"engines.llama-cpp.reencode": "Q8_0"}) as corral:
            assert "Q8_0" in await loaded_type(corral)
            [name] = await derived(corral)
            assert name.startswith("quantize:")

    asyncio.run(check())


@pytest.mark.parametrize("speed", [1.5, 0.5])
def test_tuning_by_itself(tmp_path: Path, results: dict[str, Comparison], speed: float) -> None:
    """The first load is that of the original, and begins the tuning; later ones have its result, and begin none, even
    if the original was best."""
    results |= {"Q8_0": compared(speed), "Q4_0": compared(1.0)}

    async def check() -> None:
        async with opened(tmp_path, **{"engines.llama-cpp.reencode": "auto"}) as corral:
            assert "F16" in await loaded_type(corral)
            tuning = [task for task in asyncio.all_tasks() if task.get_name().startswith("tune ")]
            await asyncio.wait(tuning)
            assert await derived(corral) == ["llama-cpp:tuned"]
            assert ("Q8_0" if speed > 1 else "F16") in await loaded_type(corral)
            assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("tune ")]

    asyncio.run(check())


def test_the_gain_is_the_mean_of_three_ratios() -> None:
    """The geometric one, so that twice as fast and half as fast cancel out."""
    assert gain_of(compared(2.0)) == pytest.approx(2.0)
    assert gain_of(compared(2.0, measured=False)) is None

"""One model in memory, and the set of models: the possible transitions, and what follows from each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from msgspec import UNSET

from corral.core.errors import LoadFailed, ServerBusy
from corral.core.models.digests import digest_of
from corral.core.models.model import ModelFile, StoredModel
from corral.core.models.names import parse_name
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.running import RunningModel
from corral.core.scheduling.engine_choice import Candidate
from corral.core.scheduling.resident import Resident
from corral.core.scheduling.residents import Residents
from corral.core.scheduling.sharing import files_key
from corral.core.specs.engines import Derivation, EngineSpec, LoadRequest, Match
from tests.unit.idle_model import IdleModel

SPEC = EngineSpec(
    name="toy",
    summary="",
    form="step",
    load="nowhere:load",
    match=lambda *_: Match(score=1, reason=""),
    estimate=lambda *_: {},
)
CHOICE = Candidate(spec=SPEC, match=Match(score=1, reason=""))
NAME = parse_name("a")
RECORD = StoredModel(
    name=NAME,
    digest=digest_of(b"a"),
    size_bytes=1,
    modified_at=0,
    files=(ModelFile(role="weights", media_type="", digest=digest_of(b"w"), size_bytes=1),),
)


class NoRunner:
    name = "thread"

    async def load(self, spec: EngineSpec, request: LoadRequest, on_progress: OnLoadProgress) -> RunningModel:
        raise NotImplementedError


def added(residents: Residents, load: Callable[[Resident], Awaitable[RunningModel]]) -> Resident:
    return residents.add(RECORD, CHOICE, NoRunner(), keep_alive_s=60, load=load)


async def at_once(resident: Resident) -> RunningModel:
    return IdleModel()


async def failing(resident: Resident) -> RunningModel:
    raise LoadFailed("bad luck")


def files(*described: tuple[str, str, str | None]) -> StoredModel:
    """A model made of files, each with a role, contents and a path."""
    made = tuple(
        ModelFile(role=role, media_type="", digest=digest_of(text.encode()), size_bytes=1, path=path)  # type: ignore[arg-type]
        for role, text, path in described
    )
    return msgspec.structs.replace(RECORD, digest=digest_of(str(described).encode()), files=made)


WEIGHTS = ("weights", "w", None)
FOLDER = [("weights", "w", "m.onnx"), ("config", "c", "c.json")]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([WEIGHTS], [WEIGHTS, ("license", "MIT", None), ("system", "Be brief.", None)], True),
        ([WEIGHTS], [("weights", "w", "model.gguf")], True),
        ([WEIGHTS], [("weights", "v", None)], False),
        ([("weights", "old", None), WEIGHTS], [WEIGHTS], True),  # the last one is loaded
        ([WEIGHTS], [WEIGHTS, ("projector", "p", None)], False),
        ([WEIGHTS], [WEIGHTS, ("adapter", "a", None)], False),
        ([WEIGHTS], [WEIGHTS, ("draft", "d", None)], False),
        ([WEIGHTS, ("adapter", "a", None)], [WEIGHTS, ("draft", "a", None)], False),
        (
            [WEIGHTS, ("adapter", "a", None), ("adapter", "b", None)],
            [WEIGHTS, ("adapter", "b", None), ("adapter", "a", None)],
            False,
        ),
        (FOLDER, [("weights", "w", "m.onnx")], False),
        (FOLDER, [("weights", "w", "m.onnx"), ("config", "c", "d.json")], False),
        (FOLDER, [*FOLDER, ("license", "MIT", "LICENSE")], True),
        ([], [], True),
        ([], [("system", "Be brief.", None)], False),
    ],
)
def test_what_tells_models_in_memory_apart(
    one: list[tuple[str, str, str | None]], other: list[tuple[str, str, str | None]], same: bool
) -> None:
    """The files that are loaded, their roles, their order, and their names in a folder; without files, the manifest."""
    assert (files_key(files(*one)) == files_key(files(*other))) is same


def test_the_life_of_a_model() -> None:
    """A model is loading, then loaded; leased, then idle; and gone once it is removed."""

    async def main() -> None:
        residents = Residents()
        one = added(residents, at_once)
        one.lease(NAME, UNSET, "me")
        assert (one.loading, one.waiting_of("me"), one.full) == (True, 1, True)
        model = await one.loaded(None)
        assert (one.loading, one.waiting_of("me"), one.full, one.idle, one.finished) == (False, 0, False, False, False)
        residents.give_back(one, "me")
        assert (one.idle, one.finished, list(residents)) == (True, False, [one])
        await residents.remove(one)
        assert (one.gone, one.model, model.alive, list(residents)) == (True, None, False, [])

    asyncio.run(main())


def test_transitions_that_there_are_not() -> None:
    """A gone model is neither leased nor removed, a leaving one is not leased, and no lease is given back twice."""

    async def main() -> None:
        residents = Residents()
        one = added(residents, at_once)
        one.lease(NAME, UNSET, "me")
        await one.loaded(None)
        one.drain()
        with pytest.raises(AssertionError, match="accepts no leases"):
            one.lease(NAME, UNSET, "me")
        with pytest.raises(AssertionError, match="has its memory"):
            one.require({"cpu": 1})
        residents.give_back(one, "me")
        assert one.gone
        for misuse in (one.leave, lambda: one.lease(NAME, UNSET, "me"), lambda: one.give_back("me")):
            with pytest.raises(AssertionError):
                misuse()
        await residents.aclose()

    asyncio.run(main())


def test_a_load_that_fails_leaves_nothing() -> None:
    """Waiting requests get the error; the model is gone and no longer found."""

    async def main() -> None:
        residents = Residents()
        one = added(residents, failing)
        one.lease(NAME, UNSET, "me")
        with pytest.raises(LoadFailed, match="bad luck"):
            await one.loaded(None)
        await asyncio.sleep(0)
        assert (one.gone, list(residents), residents.find(RECORD, CHOICE)) == (True, [], None)
        residents.give_back(one, "me")
        assert residents.departures == 0

    asyncio.run(main())


def test_a_load_that_ends_after_it_was_cancelled() -> None:
    """Its model is closed before the departure ends, and waiting requests learn that it is gone."""

    async def main() -> None:
        residents, model = Residents(), IdleModel()

        async def stubborn(resident: Resident) -> RunningModel:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return model
            raise NotImplementedError

        one = added(residents, stubborn)
        one.lease(NAME, UNSET, "me")
        await asyncio.sleep(0)
        waiting = asyncio.create_task(one.loaded(None))
        await asyncio.sleep(0)
        await residents.remove(one)
        assert (one.gone, model.alive) == (True, False)
        with pytest.raises(ServerBusy):
            await waiting

    asyncio.run(main())


def test_a_model_that_dies_as_soon_as_it_is_loaded() -> None:
    """Requests that waited for it get it even if another one has found it dead by then: it can say how it died."""

    async def main() -> None:
        residents = Residents()
        one = added(residents, at_once)
        one.lease(NAME, UNSET, "me")
        waiting = asyncio.create_task(one.loaded(None))
        while one.loading:  # noqa: ASYNC110 - the waiter must not run after the load before we do
            await asyncio.sleep(0)
        model = one.model
        assert isinstance(model, IdleModel)
        model.alive = False
        assert residents.find(RECORD, CHOICE) is None
        assert (one.gone, waiting.done()) == (True, False)
        assert await waiting is model
        residents.give_back(one, "me")
        await residents.aclose()

    asyncio.run(main())


def test_another_derivation_is_another_load() -> None:
    """A model converted one way does not serve a request for which it would be converted another way."""

    async def main() -> None:
        residents = Residents()
        one = added(residents, at_once)
        one.lease(NAME, UNSET, "me")
        await one.loaded(None)
        match = Match(score=1, reason="", derive=Derivation(converter="press"))
        assert residents.find(RECORD, CHOICE) is one
        assert residents.find(RECORD, msgspec.structs.replace(CHOICE, match=match)) is None
        await residents.aclose()

    asyncio.run(main())


def test_giving_way_ends() -> None:
    """A model that is making room accepts leases again once no model waits for its memory; one that drains does not."""

    async def main() -> None:
        residents = Residents()
        one = added(residents, at_once)
        one.lease(NAME, UNSET, "me")
        await one.loaded(None)
        one.give_way()
        assert residents.find(RECORD, CHOICE) is None
        one.stay()
        assert residents.find(RECORD, CHOICE) is one
        assert residents.unload(one) is None
        one.stay()
        assert residents.find(RECORD, CHOICE) is None
        await residents.aclose()

    asyncio.run(main())

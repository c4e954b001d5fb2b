"""The contract of manifest stores, as a test suite to subclass with a fixture `store`."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest

from corral.core.errors import Conflict, InvalidName
from corral.core.models.digests import digest_of
from corral.core.models.names import ModelName, parse_name
from corral.core.ports.manifests import ManifestStore

__all__ = ("ManifestStoreContract",)


async def _names(store: ManifestStore) -> list[str]:
    return sorted([entry.name.full async for entry in store.list()])


class ManifestStoreContract:
    """What every `ManifestStore` promises. A subclass provides the fixture `store`: a new, empty one for each test."""

    @pytest.fixture
    def store(self) -> ManifestStore:
        raise NotImplementedError("a subclass of ManifestStoreContract provides the fixture store")

    def test_the_exact_bytes_come_back(self, store: ManifestStore) -> None:
        """The bytes, digest, name and time of a manifest are kept; nothing is parsed."""

        async def scenario() -> None:
            name, data = parse_name("hf.co/ns/model:Q4_K_M"), b'{ "any" :\tbytes\xff}\n'
            before = time.time()
            put = await store.put(name, data)
            assert (put.name, put.data, put.digest) == (name, data, digest_of(data))
            assert before - 2 <= put.modified_at <= time.time() + 2
            assert await store.get(name) == put
            listed = [(entry.name, entry.digest, entry.modified_at) async for entry in store.list()]
            assert listed == [(put.name, put.digest, put.modified_at)]

        asyncio.run(scenario())

    def test_absent_names(self, store: ManifestStore) -> None:
        """An absent name is None, deleting it is False, and an empty store lists nothing."""

        async def scenario() -> None:
            assert await store.get(parse_name("nobody")) is None
            assert await store.delete(parse_name("nobody")) is False
            assert await _names(store) == []

        asyncio.run(scenario())

    def test_case_does_not_count_and_the_first_spelling_stays(self, store: ManifestStore) -> None:
        """Names that differ only in case are one model, with the spelling that was stored first."""

        async def scenario() -> None:
            await store.put(parse_name("User/Llama3:Latest"), b"1")
            found = await store.get(parse_name("uSER/llama3:latest"))
            assert found is not None
            assert found.name.short == "User/Llama3:Latest"
            again = await store.put(parse_name("user/LLAMA3:LATEST"), b"2")
            assert (again.name.short, again.data) == ("User/Llama3:Latest", b"2")
            assert await _names(store) == ["registry.ollama.ai/User/Llama3:Latest"]
            assert await store.delete(parse_name("USER/llama3"))
            assert await _names(store) == []

        asyncio.run(scenario())

    def test_if_digest_guards_against_lost_updates(self, store: ManifestStore) -> None:
        """A conditional put succeeds only if the version it names is still stored."""

        async def scenario() -> None:
            name = parse_name("m")
            with pytest.raises(Conflict):
                await store.put(name, b"2", if_digest=digest_of(b"1"))
            first = await store.put(name, b"1")
            await store.put(name, b"2", if_digest=first.digest)
            with pytest.raises(Conflict):
                await store.put(name, b"3", if_digest=first.digest)
            found = await store.get(name)
            assert found is not None
            assert found.data == b"2"

        asyncio.run(scenario())

    def test_put_says_what_it_replaced(self, store: ManifestStore) -> None:
        """`put` returns the bytes that the name had before, in any case; other calls do not."""

        async def scenario() -> None:
            assert (await store.put(parse_name("m"), b"1")).replaced is None
            assert (await store.put(parse_name("M"), b"2")).replaced == b"1"
            assert (await store.put(parse_name("m"), b"2")).replaced == b"2"
            assert (await store.put(parse_name("m"), b"3", if_digest=digest_of(b"2"))).replaced == b"2"
            assert (await store.put(parse_name("other"), b"3")).replaced is None
            found = await store.get(parse_name("m"))
            assert found is not None
            assert found.replaced is None
            assert await store.delete(parse_name("m"))
            assert (await store.put(parse_name("m"), b"4")).replaced is None

        asyncio.run(scenario())

    def test_of_many_puts_each_replaces_another(self, store: ManifestStore) -> None:
        """If tasks put under one name at once, each gets the bytes of another, and nobody gets them twice."""

        async def scenario() -> None:
            puts = await asyncio.gather(*(store.put(parse_name("m"), f"{number}".encode()) for number in range(8)))
            found = await store.get(parse_name("m"))
            assert found is not None
            replaced = [put.replaced for put in puts if put.replaced is not None]
            assert sorted([*replaced, found.data]) == sorted(f"{number}".encode() for number in range(8))

        asyncio.run(scenario())

    def test_of_many_conditional_puts_one_wins(self, store: ManifestStore) -> None:
        """If several tasks replace the same version, exactly one succeeds."""

        async def scenario() -> None:
            name = parse_name("m")
            first = await store.put(name, b"0")

            async def replace(number: int) -> bool:
                with suppress(Conflict):
                    await store.put(name, f"{number + 1}".encode(), if_digest=first.digest)
                    return True
                return False

            assert sum(await asyncio.gather(*(replace(number) for number in range(8)))) == 1

        asyncio.run(scenario())

    def test_many_puts_and_deletes_at_once(self, store: ManifestStore) -> None:
        """Names that are created and deleted under one folder do not disturb each other."""

        async def scenario() -> None:
            async def come_and_go(number: int) -> None:
                name = parse_name(f"shared:{number}")
                for _ in range(5):
                    await store.put(name, b"here")
                    assert await store.delete(name)
                await store.put(name, b"stays")

            await asyncio.gather(*(come_and_go(number) for number in range(8)))
            assert await _names(store) == [f"registry.ollama.ai/library/shared:{number}" for number in range(8)]

        asyncio.run(scenario())

    def test_deleting_one_leaves_its_neighbours(self, store: ManifestStore) -> None:
        """Other tags of the model, and models with the same prefix, stay."""

        async def scenario() -> None:
            for name in ("a:1", "a:2", "ab:1"):
                await store.put(parse_name(name), name.encode())
            assert await store.delete(parse_name("a:1"))
            assert await _names(store) == ["registry.ollama.ai/library/a:2", "registry.ollama.ai/library/ab:1"]

        asyncio.run(scenario())

    def test_names_that_nobody_parsed_reach_nothing(self, store: ManifestStore) -> None:
        """A name that breaks the grammar raises InvalidName, or is not found."""

        async def scenario() -> None:
            hostile = (
                ModelName(model="../../../../etc", tag="passwd"),
                ModelName(model="m", tag=".."),
                ModelName(model="m", host="/etc"),
                ModelName(model="m", namespace="a/b"),
                ModelName(model="m\0", tag="t"),
            )
            for name in hostile:
                with suppress(InvalidName):
                    assert await store.get(name) is None
                with suppress(InvalidName):
                    assert await store.delete(name) is False

        asyncio.run(scenario())

    def test_the_guard_is_shared_or_exclusive(self, store: ManifestStore) -> None:
        """Shared holders run together, an exclusive one runs alone, and both release the guard in the end."""

        async def scenario() -> None:
            inside: list[str] = []
            most: dict[str, int] = {"shared": 0, "exclusive": 0}

            async def hold(kind: str) -> None:
                async with store.guard(exclusive=kind == "exclusive"):
                    inside.append(kind)
                    assert kind == "shared" or len(inside) == 1
                    assert "exclusive" not in inside or len(inside) == 1
                    most[kind] = max(most[kind], len(inside))
                    await asyncio.sleep(0.02)
                    inside.remove(kind)

            await asyncio.gather(*(hold(kind) for kind in ("shared", "shared", "exclusive", "shared", "exclusive")))
            assert most == {"shared": most["shared"], "exclusive": 1}
            assert most["shared"] >= 2

        asyncio.run(scenario())

    def test_a_cancelled_guard_is_free_again(self, store: ManifestStore) -> None:
        """A task that is cancelled while it waits for the guard, or holds it, releases it."""

        async def scenario() -> None:
            async def hold() -> None:
                async with store.guard(exclusive=True):
                    await asyncio.sleep(60)

            inside, waiting = asyncio.create_task(hold()), asyncio.create_task(hold())
            await asyncio.sleep(0.05)
            for task in (waiting, inside):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            async with asyncio.timeout(5), store.guard(exclusive=True):
                pass

        asyncio.run(scenario())

    def test_a_claimed_name_has_one_holder(self, store: ManifestStore) -> None:
        """Only one task at a time holds a name, in any case; another name does not wait."""

        async def scenario() -> None:
            inside: list[str] = []

            async def make(name: str) -> None:
                async with store.claim(parse_name(name)):
                    inside.append(name)
                    assert len(inside) == 1
                    async with store.claim(parse_name("another")):
                        await asyncio.sleep(0.01)
                    inside.remove(name)

            async with asyncio.timeout(60):
                await asyncio.gather(*(make(name) for name in ("model", "MODEL", "model:latest")))

        asyncio.run(scenario())

    def test_a_claim_says_nothing_about_the_manifest(self, store: ManifestStore) -> None:
        """A claimed name can be put, read and deleted, and a claim creates no model."""

        async def scenario() -> None:
            name = parse_name("m")
            async with store.claim(name):
                assert await store.get(name) is None
                await store.put(name, b"1")
                assert await store.delete(name)
            assert await _names(store) == []

        asyncio.run(scenario())

    def test_a_cancelled_claim_is_free_again(self, store: ManifestStore) -> None:
        """A task that is cancelled while it waits for a name, or holds it, releases it."""

        async def scenario() -> None:
            entered = asyncio.Event()

            async def hold() -> None:
                async with store.claim(parse_name("m")):
                    entered.set()
                    await asyncio.sleep(60)

            inside = asyncio.create_task(hold())
            await entered.wait()
            waiting = asyncio.create_task(hold())
            await asyncio.sleep(0.05)
            for task in (waiting, inside):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            async with asyncio.timeout(5), store.claim(parse_name("m")):
                pass

        asyncio.run(scenario())

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
from corral.plugins.testing.store_locks import StoreLockPromises, stored_names

__all__ = ("ManifestStoreContract",)


class ManifestStoreContract(StoreLockPromises):
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
            assert await stored_names(store) == []

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
            assert await stored_names(store) == ["registry.ollama.ai/User/Llama3:Latest"]
            assert await store.delete(parse_name("USER/llama3"))
            assert await stored_names(store) == []

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
            assert await stored_names(store) == [f"registry.ollama.ai/library/shared:{number}" for number in range(8)]

        asyncio.run(scenario())

    def test_deleting_one_leaves_its_neighbours(self, store: ManifestStore) -> None:
        """Other tags of the model, and models with the same prefix, stay."""

        async def scenario() -> None:
            for name in ("a:1", "a:2", "ab:1"):
                await store.put(parse_name(name), name.encode())
            assert await store.delete(parse_name("a:1"))
            assert await stored_names(store) == ["registry.ollama.ai/library/a:2", "registry.ollama.ai/library/ab:1"]

        asyncio.run(scenario())

    def test_one_manifest_may_have_several_names(self, store: ManifestStore) -> None:
        """The same bytes under another tag and another model are kept until the last of these names is deleted."""

        async def scenario() -> None:
            names = [parse_name(name) for name in ("m:1", "m:2", "user/n")]
            for name in names:
                await store.put(name, b"same")
            for number, name in enumerate(names):
                assert await store.delete(name)
                assert await store.get(name) is None
                for other in names[number + 1 :]:
                    found = await store.get(other)
                    assert found is not None
                    assert found.data == b"same"
            assert await stored_names(store) == []

        asyncio.run(scenario())

    def test_every_valid_name_comes_back(self, store: ManifestStore) -> None:
        """Hosts with ports, capitals, and separators that other systems do not take, also at the ends of a part."""

        async def scenario() -> None:
            texts = ("localhost:5000/ns/model:v1.0", "_a/__b:c-", "hf.co/Owner/M..x:Q4_K_M", "a--b/c_.-d", "x--6d/y")
            names = [parse_name(text) for text in texts]
            for name in names:
                await store.put(name, name.full.encode())
            for name in names:
                found = await store.get(name)
                assert found is not None
                assert (found.name, found.data) == (name, name.full.encode())
            assert await stored_names(store) == sorted(name.full for name in names)

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

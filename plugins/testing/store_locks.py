"""What manifest stores promise about their guard and claims; part of the suite for manifest stores."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from corral.core.models.names import parse_name
from corral.core.ports.manifests import ManifestStore

__all__ = ("StoreLockPromises", "stored_names")


async def stored_names(store: ManifestStore) -> list[str]:
    """The full names of all manifests, sorted."""
    return sorted([entry.name.full async for entry in store.list()])


class StoreLockPromises:
    """What the guard and the claims of every `ManifestStore` promise."""

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
            assert await stored_names(store) == []

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

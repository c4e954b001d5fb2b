"""Prefixes that are kept in host memory and on disk: what is found, what leaves, what a damaged file does."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corral.adapters.engine_kit.prefixes.kept_prefix import KeptPrefix
from corral.adapters.engine_kit.prefixes.prefix_cache import PrefixCache
from corral.adapters.engine_kit.prefixes.prefix_disk import FolderPrefixDisk
from corral.adapters.engine_kit.prefixes.prefix_files import PrefixFiles
from corral.adapters.engine_kit.prefixes.prefix_folder import ABANDONED_S, PrefixFolder
from corral.core.models.digests import Digest

WEIGHTS, OTHERS = "sha256:" + "a" * 64, "sha256:" + "b" * 64
IMAGE = -(1 << 300) - 7
MANY = 1 << 30


def state_of(keys: list[int]) -> bytearray:
    return bytearray(repr(keys).encode() * 3)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def until_written(cache: PrefixCache) -> None:
    until(lambda: cache.poll() and not cache.writing)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., PrefixCache]]:
    """``opened(memory_bytes=…, limit_bytes=…, owner=…)``: a cache with files below `tmp_path`."""
    caches: list[PrefixCache] = []

    def open_one(
        *, memory_bytes: int = MANY, limit_bytes: int = MANY, owner: str = f"{WEIGHTS}/x", divisible: bool = True
    ) -> PrefixCache:
        files = PrefixFiles(PrefixFolder(tmp_path / "deep" / "prefixes", limit_bytes), owner, "m:latest")
        caches.append(PrefixCache(memory_bytes=memory_bytes, divisible=divisible, files=files))
        caches[-1].poll()
        return caches[-1]

    yield open_one
    for cache in caches:
        cache.close(0)


def put(cache: PrefixCache, *prompts: list[int]) -> None:
    for keys in prompts:
        cache.put(keys, b"note", state_of(keys))


def found(cache: PrefixCache, keys: list[int]) -> tuple[KeptPrefix | None, int]:
    """What helps the prompt, in memory once it has been read."""
    entry, shared = cache.find(keys, len(keys))
    while entry is not None and cache.is_reading(entry):
        cache.wait(10)
        cache.poll()
        entry, shared = cache.find(keys, len(keys))
    return entry, shared


def in_memory(cache: PrefixCache) -> tuple[int, int]:
    tier = next(tier for tier in cache.tiers() if tier.name == "memory")
    return tier.entries, tier.size_bytes


def files_in(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "deep" / "prefixes").glob("*.prefix"))


def test_the_longest_prefix_is_found_in_memory() -> None:
    """A shorter one that a longer one covers is not kept twice; what differs is found as far as it is equal."""
    cache = PrefixCache(memory_bytes=MANY, divisible=True)
    put(cache, [1, 2, 3], [1, 2, 3, 4, 5], [1, 2], [7, 7])
    assert in_memory(cache)[0] == 2
    entry, shared = cache.find([1, 2, 3, 4, 9], 5)
    assert entry is not None
    assert (cache.keys(entry), shared) == ([1, 2, 3, 4, 5], 4)
    assert cache.find([1, 2, 3, 4, 9], 2)[1] == 2
    assert cache.find([8], 1) == (None, 0)


def test_what_cannot_be_cut_is_found_as_a_whole() -> None:
    """For an engine that cannot cut a state, shorter ones are kept too, and only whole ones count."""
    cache = PrefixCache(memory_bytes=MANY, divisible=False)
    put(cache, [1, 2, 3, 4, 5], [1, 2, 3], [1, 2, 3])
    assert in_memory(cache)[0] == 2
    entry, shared = cache.find([1, 2, 3, 4, 9], 5)
    assert entry is not None
    assert (cache.keys(entry), shared) == ([1, 2, 3], 3)


def test_the_least_recently_used_state_leaves_memory() -> None:
    """States are counted in bytes; one that has helped stays."""
    size = len(state_of([1, 1]))
    cache = PrefixCache(memory_bytes=2 * size, divisible=True)
    put(cache, [1, 1], [2, 2])
    first, _ = cache.find([1, 1], 2)
    assert first is not None
    cache.used(first)
    put(cache, [3, 3])
    cache.shrink()
    assert [cache.find([number, number], 2)[1] for number in (1, 2, 3)] == [2, 0, 2]
    assert in_memory(cache) == (2, 2 * size)


def test_another_process_finds_what_was_written(opened: Callable[..., PrefixCache], tmp_path: Path) -> None:
    """Keys (those of images, too), notes and states come back as they were; nobody else may read them."""
    prompts = [[1, 2, 3, -4], [5, IMAGE, IMAGE, IMAGE - 1], list(range(1000))]
    cache = opened()
    put(cache, *prompts)
    cache.close(30)
    assert len(files_in(tmp_path)) == 3
    assert stat.S_IMODE(files_in(tmp_path)[0].parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in files_in(tmp_path)} == {0o600}
    again = opened()
    for keys in prompts:
        entry, shared = found(again, [*keys, 6])
        assert entry is not None
        assert (again.keys(entry), entry.note, entry.state, shared) == (keys, b"note", state_of(keys), len(keys))
        again.count_hit(entry)
    assert [(tier.name, tier.entries, tier.hits) for tier in again.tiers()] == [("memory", 3, 0), ("disk", 3, 3)]


def test_another_owner_finds_nothing(opened: Callable[..., PrefixCache]) -> None:
    """Files belong to what their states depend on: other weights or other options have their own."""
    cache = opened()
    put(cache, [1, 2, 3])
    cache.close(30)
    for owner in (f"{WEIGHTS}/y", f"{OTHERS}/x"):
        assert opened(owner=owner).find([1, 2, 3], 3) == (None, 0)


def _cut(data: bytearray) -> None:
    del data[-5:]


def _grown(data: bytearray) -> None:
    data += b"more"


def _other_state(data: bytearray) -> None:
    data[-3] ^= 1


def _other_head(data: bytearray) -> None:
    data[60] ^= 1


def _other_version(data: bytearray) -> None:
    data[8] ^= 1


def _empty(data: bytearray) -> None:
    data.clear()


@pytest.mark.parametrize("damage", [_cut, _grown, _other_state, _other_head, _other_version, _empty])
@pytest.mark.parametrize("late", [False, True], ids=["before it is listed", "afterwards"])
def test_a_damaged_file_is_a_miss(
    damage: Callable[[bytearray], None], late: bool, opened: Callable[..., PrefixCache], tmp_path: Path
) -> None:
    """Whatever happens to a file, its state is not used, the file is deleted, and others are still found."""
    cache = opened()
    put(cache, [1, 2, 3])
    cache.close(30)
    [path] = files_in(tmp_path)
    put(cache := opened(), [4, 5, 6])
    cache.close(30)
    again = opened() if late else None
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    again = again or opened()
    assert found(again, [1, 2, 3]) == (None, 0)
    assert not path.exists()
    assert found(again, [4, 5, 6])[1] == 3


def test_a_file_under_the_name_of_another_is_a_miss(opened: Callable[..., PrefixCache], tmp_path: Path) -> None:
    """A whole file with another prompt's state is not mistaken for the one that was listed."""
    cache = opened()
    put(cache, [1, 2, 3], [4, 5, 6])
    cache.close(30)
    again = opened()
    one, other = files_in(tmp_path)
    one.write_bytes(other.read_bytes())
    assert {found(again, [1, 2, 3])[1], found(again, [4, 5, 6])[1]} == {0, 3}


def test_a_file_that_is_gone_is_a_miss(opened: Callable[..., PrefixCache], tmp_path: Path) -> None:
    """Another process may have deleted it."""
    cache = opened()
    put(cache, [1, 2, 3])
    cache.close(30)
    again = opened()
    files_in(tmp_path)[0].unlink()
    assert found(again, [1, 2, 3]) == (None, 0)


def test_the_least_recently_used_files_leave(opened: Callable[..., PrefixCache], tmp_path: Path) -> None:
    """The limit is for the files of all models together; what was read last stays."""
    cache = opened()
    put(cache, list(range(1000)), list(range(1000, 2000)))
    cache.close(30)
    for age, path in enumerate(files_in(tmp_path)):
        os.utime(path, (1000 - age, 1000 - age))
    reader = opened()
    assert found(reader, list(range(1000)))[1] == 1000
    size = files_in(tmp_path)[0].stat().st_size
    other = opened(limit_bytes=int(2.5 * size), owner=f"{OTHERS}/x")
    put(other, list(range(3000, 4000)))
    other.close(30)
    last = opened()
    assert (last.find(list(range(1000)), 1000)[1], last.find(list(range(1000, 2000)), 1000)[1]) == (1000, 0)


def test_a_longer_prefix_replaces_the_file_of_a_shorter_one(opened: Callable[..., PrefixCache], tmp_path: Path) -> None:
    """The next turn of a chat leaves one file, and the old one stays until the new one is there."""
    cache = opened()
    put(cache, [1, 2, 3])
    assert cache.write_next()
    until_written(cache)
    put(cache, [1, 2, 3, 4])
    assert len(files_in(tmp_path)) == 1
    assert cache.write_next()
    until(lambda: cache.poll() and not cache.writing and len(files_in(tmp_path)) == 1)
    assert not cache.write_next()
    assert opened().find([1, 2, 3, 4], 4)[1] == 4


def test_what_only_passes_leaves_memory_once_it_is_written(opened: Callable[..., PrefixCache]) -> None:
    """A state that the engine still holds itself takes host memory only until it is on disk."""
    cache = opened()
    cache.put([1, 2, 3], b"", state_of([1, 2, 3]), passing=True)
    assert in_memory(cache)[0] == 1
    assert cache.write_next()
    until_written(cache)
    assert in_memory(cache) == (0, 0)
    assert found(cache, [1, 2, 3])[1] == 3


def test_memory_that_is_full_overflows_to_disk(opened: Callable[..., PrefixCache]) -> None:
    """What leaves host memory unwritten is written first, and found again."""
    cache = opened(memory_bytes=1)
    put(cache, [1, 2, 3])
    cache.shrink()
    until_written(cache)
    assert cache.tiers()[0].size_bytes == 0
    assert found(cache, [1, 2, 3])[1] == 3


def test_clearing_reaches_who_has_the_model_loaded(opened: Callable[..., PrefixCache], tmp_path: Path) -> None:
    """All prefixes of a model are deleted; its processes forget what they have in memory, and write nothing of it.
    Other models keep theirs."""
    mine, others = opened(), opened(owner=f"{OTHERS}/x")
    for cache in (mine, others):
        put(cache, [1, 2, 3])
        assert cache.write_next()
        until_written(cache)
        put(cache, [4, 5, 6])
    assert PrefixFolder(tmp_path / "deep" / "prefixes", 0).clear(WEIGHTS)[0] == 1
    until(lambda: not mine.poll())
    assert mine.find([1, 2, 3], 3) == mine.find([4, 5, 6], 3) == (None, 0)
    assert others.find([1, 2, 3], 3)[1] == 3
    mine.close(30)
    others.close(30)
    assert [path.name[:16] for path in files_in(tmp_path)] == ["b" * 16] * 2


def test_what_was_saved_before_clearing_is_not_written(opened: Callable[..., PrefixCache], tmp_path: Path) -> None:
    """A process that has not noticed the clearing yet writes nothing that was computed before."""
    cache = opened()
    put(cache, [1, 2, 3])
    (tmp_path / "deep" / "prefixes").mkdir(parents=True)
    PrefixFolder(tmp_path / "deep" / "prefixes", 0).clear()
    assert cache.write_next()
    until(lambda: cache.poll() is not None and not cache.writing)
    assert files_in(tmp_path) == []


def test_what_a_dead_process_left_is_deleted(opened: Callable[..., PrefixCache], tmp_path: Path) -> None:
    """Half-written files of others stay while their writers may live."""
    folder = tmp_path / "deep" / "prefixes"
    folder.mkdir(parents=True)
    old, new = folder / "a.prefix.1.tmp", folder / "a.prefix.2.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * ABANDONED_S,) * 2)
    opened()
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_that_cannot_be_written_to_costs_nothing_else(tmp_path: Path) -> None:
    """Without a place on disk, host memory works as before."""
    (tmp_path / "file").write_bytes(b"")
    files = PrefixFiles(PrefixFolder(tmp_path / "file" / "prefixes", MANY), f"{WEIGHTS}/x", "m")
    cache = PrefixCache(memory_bytes=MANY, divisible=True, files=files)
    put(cache, [1, 2, 3])
    assert cache.write_next()
    until_written(cache)
    assert found(cache, [1, 2, 3])[1] == 3
    cache.close(30)


async def _kept(disk: FolderPrefixDisk) -> list[tuple[str, str, int, int]]:
    return [(one.model, one.weights, one.entries, one.tokens) for one in await disk.list()]


@pytest.mark.parametrize("weights", [None, Digest(WEIGHTS)])
def test_people_see_and_clear_what_is_on_disk(
    weights: Digest | None, opened: Callable[..., PrefixCache], tmp_path: Path
) -> None:
    """By model: its name, how many prefixes and tokens."""
    cache = opened()
    put(cache, [1, 2, 3], [4, 5, IMAGE])
    cache.close(30)
    disk = FolderPrefixDisk(tmp_path / "deep" / "prefixes")
    assert asyncio.run(_kept(disk)) == [("m:latest", WEIGHTS, 2, 6)]
    count, freed_bytes = asyncio.run(disk.clear(weights))
    assert (count, freed_bytes > 0, files_in(tmp_path)) == (2, True, [])
    assert asyncio.run(_kept(FolderPrefixDisk(None))) == []
    assert asyncio.run(FolderPrefixDisk(tmp_path / "nowhere").clear()) == (0, 0)

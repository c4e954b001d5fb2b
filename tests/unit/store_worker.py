"""A process that works on a store until it is killed, or until its disk seems full. For `test_killed_stores.py`.

It reads a line of JSON for each run, forks, and works in the child: so a run costs no start of Python. Prints the
child's exit status.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.modelpack import ModelPackFormat
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.registries.memory import MemoryRegistry
from corral.core.catalog.catalog import ModelCatalog
from corral.core.errors import CorralError
from corral.core.models.names import parse_name
from corral.plugins.builtin import FilesystemStoreSettings, OciLayoutStoreSettings
from corral.plugins.specs import Stores
from corral.plugins.stores import filesystem, oci_layout

NAMES = ("a", "b", "c", "d")
STEPS = 12
_WATCHED = frozenset({"open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.utime", "os.listdir"})
_WRITES = frozenset({"open", "os.rename", "os.link", "os.mkdir"})


def stores_at(root: Path, kind: str = "filesystem") -> Stores:
    """The store at `root`, as the command line has it."""
    if kind == "oci-layout":
        return oci_layout(OciLayoutStoreSettings(root=str(root)))
    return filesystem(FilesystemStoreSettings(root=str(root)))


def catalog_at(root: Path, kind: str = "filesystem", registry: MemoryRegistry | None = None) -> ModelCatalog:
    """A catalog of this store."""
    stores = stores_at(root, kind)
    return ModelCatalog(
        manifests=stores.manifests,
        blobs=stores.blobs,
        local=stores.local,
        formats=[OllamaManifestFormat(), ModelPackFormat()],
        readers=[GgufReader()],
        cache=stores.cache,
        registries=[registry or MemoryRegistry()],
    )


class Interruptions:
    """Ends the process, or fails a write, at the nth use of a file below `root`."""

    def __init__(self, root: str, *, kill_at: int | None, fail_from: int | None) -> None:
        self._root = root
        self._kill_at = kill_at
        self._fail_from = fail_from
        self._count = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _WATCHED or not self._is_ours(arguments):
            return
        self._count += 1
        if self._count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        full = self._fail_from is not None and self._fail_from <= self._count < self._fail_from + 5
        if full and event in _WRITES and not _only_reads(event, arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    def _is_ours(self, arguments: tuple[Any, ...]) -> bool:
        return any(isinstance(one, str | os.PathLike) and os.fspath(one).startswith(self._root) for one in arguments)


def _only_reads(event: str, arguments: tuple[Any, ...]) -> bool:
    return event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)


class Worker:
    """Does random things. Notes in `log` what it begins and what has ended: facts that a crash cannot undo."""

    def __init__(self, catalog: ModelCatalog, files: list[Path], log: Path, seed: int) -> None:
        self._catalog = catalog
        self._files = files
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._dice = random.Random(seed)

    async def work(self) -> None:
        for _ in range(STEPS):
            way: Callable[[str], Awaitable[tuple[str, str]]] = self._dice.choice(
                (self._import, self._import, self._pull, self._pull, self._copy, self._delete)
            )
            name = self._dice.choice(NAMES)
            self._note("begin", way.__name__[1:], name)
            try:
                what, content = await way(name)
            except CorralError as error:
                self._note("failed", type(error).__name__, name)
            else:
                self._note(what, name, content)

    async def _import(self, name: str) -> tuple[str, str]:
        file = self._dice.choice(self._files)
        record = await self._catalog.import_file(file, parse_name(name))
        return "put", record.digest

    async def _pull(self, name: str) -> tuple[str, str]:
        record = await self._catalog.pull(f"mem://host/{self._dice.choice(('one', 'two'))}", parse_name(name))
        return "put", record.digest

    async def _copy(self, name: str) -> tuple[str, str]:
        await self._catalog.copy(parse_name("keep"), parse_name(name))
        return "put", (await self._catalog.get(parse_name("keep"))).digest

    async def _delete(self, name: str) -> tuple[str, str]:
        await self._catalog.delete(parse_name(name))
        return "deleted", ""

    def _note(self, *words: str) -> None:
        os.write(self._log, (" ".join(words) + "\n").encode())


async def filled_registry(files: list[Path], scratch: Path) -> MemoryRegistry:
    """A registry with the models ``one`` and ``two``."""
    registry = MemoryRegistry()
    catalog = catalog_at(scratch, registry=registry)
    for file, name in zip(files, ("one", "two"), strict=False):
        await catalog.import_file(file, parse_name(name))
        await catalog.push(parse_name(name), f"mem://host/{name}")
    return registry


def main() -> None:
    setup = json.loads(sys.stdin.readline())
    files = [Path(file) for file in setup["files"]]
    registry = asyncio.run(filled_registry(files, Path(setup["scratch"])))
    print("ready", flush=True)
    for line in sys.stdin:
        run = json.loads(line)
        child = os.fork()
        if child == 0:
            _child(run, files, registry)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


async def _work(run: dict[str, Any], files: list[Path], registry: MemoryRegistry) -> None:
    catalog = catalog_at(Path(run["root"]), run["kind"], registry)
    await Worker(catalog, files, Path(run["log"]), run["seed"]).work()


def _child(run: dict[str, Any], files: list[Path], registry: MemoryRegistry) -> None:
    status = 1
    try:
        if run["umask"] is not None:
            os.umask(run["umask"])
        if run["kill_after_s"] is not None:
            signal.setitimer(signal.ITIMER_REAL, run["kill_after_s"])  # its signal ends the process like SIGKILL
        sys.addaudithook(Interruptions(run["root"], kill_at=run["kill_at"], fail_from=run["fail_from"]))
        asyncio.run(_work(run, files, registry))
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()

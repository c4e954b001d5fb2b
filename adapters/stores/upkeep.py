"""What lies in the folders of a filesystem store besides blobs and manifests, and where broken blobs are put aside."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from corral.adapters.stores.blob_files import BlobFiles, OllamaBlobFiles
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.store_folders import StoreFolders
from corral.adapters.system.blocking_work import in_thread
from corral.adapters.system.file_locks import FileLock
from corral.adapters.system.files import make_folder, storage_errors, sync_folder
from corral.core.errors import InvalidDigest
from corral.core.models.digests import Digest, parse_digest
from corral.core.ports.blobs import BlobInfo
from corral.core.ports.upkeep import Leftover, LeftoverKind

__all__ = ("FilesystemUpkeep",)

_LIVE_S = 10.0  # who writes to a partial does so more often
_BLOCK_BYTES = 512  # of `st_blocks`, whatever the file system's own blocks are


class FilesystemUpkeep:
    """The `StoreUpkeep` of the store at `root`. Broken blobs go to ``.corral/quarantine``."""

    def __init__(self, root: Path, files: BlobFiles | None = None) -> None:
        self._folders = StoreFolders(root)
        self._files = files or OllamaBlobFiles(self._folders)
        self._blobs = FilesystemBlobs(root, self._files)

    async def leftovers(self) -> Sequence[Leftover]:
        digests = await in_thread(lambda _: self._files.digests())
        found = await in_thread(lambda _: list(self._leftovers()))
        for digest in digests:
            if await self._blobs.stat(digest) is None:
                with suppress(OSError):  # deleted meanwhile
                    found.append(self._described("changed", [self._files.path(digest)], digest))
        return found

    async def discard(self, leftover: Leftover) -> bool:
        def work(_: threading.Event) -> bool:
            with storage_errors(f"cannot delete {leftover.path}"):
                return self._discard(leftover)

        if leftover.kind == "folder" and leftover.digest is not None:
            if not await in_thread(lambda _: os.path.lexists(self._folders.root / leftover.path)):
                return False
            await self._blobs.drop_folder(leftover.digest)
            return True
        if leftover.kind == "changed" and leftover.digest is not None:
            if await self._blobs.stat(leftover.digest) is not None:
                return False
            return await self._blobs.delete(leftover.digest)
        return await in_thread(work)

    async def quarantine(self, blob: BlobInfo) -> str | None:
        def work(_: threading.Event) -> str:
            path = self._files.path(blob.digest)
            target = self._folders.quarantine / f"{path.name}-{time.strftime('%Y%m%d-%H%M%S')}"
            with storage_errors(f"cannot move {path} to {self._folders.quarantine}"):
                make_folder(target.parent)
                os.replace(path, target)
                sync_folder(path.parent)
                sync_folder(target.parent)
                # A second name of the file would bring the broken bytes back, as would what was read from them.
                second = self._files.path(blob.digest)
                if second.exists() and second.samefile(target):
                    second.unlink()
                (self._folders.metadata / blob.digest.partition(":")[2]).unlink(missing_ok=True)
            return str(target)

        if await self._blobs.stat(blob.digest) != blob:
            return None
        return await in_thread(work)

    # ── Finding ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _leftovers(self) -> Iterator[Leftover]:
        with storage_errors(f"cannot read {self._folders.own}"):
            yield from self._partials()
            for folder in (
                self._folders.workspaces,
                self._folders.pins,
                self._folders.claims,
                self._folders.holds,
            ):
                yield from self._locked(folder)
            yield from self._single(self._folders.scratch, "temporary")
            yield from self._single(self._folders.quarantine, "quarantined")
            yield from self._model_folders()
            yield from self._notes()
            yield from self._foreign()
            yield from self._empty()

    def _partials(self) -> Iterator[Leftover]:
        for stem, paths in _by_stem(self._folders.partials).items():
            with suppress(FileNotFoundError):
                digest = _digest_of(stem)
                bare = all(path.suffix == ".lock" for path in paths)
                one = self._described("scratch" if digest is None or bare else "partial", paths, digest)
                if digest is not None and time.time() - one.modified_at < _LIVE_S:
                    continue  # asking for its lock could be in the way of whoever is just resuming it
                with _unused(self._folders.partials / stem) as unused:
                    if unused:
                        yield one

    def _locked(self, folder: Path) -> Iterator[Leftover]:
        """What lies in `folder` beside a lock that nobody holds."""
        for stem, paths in _by_stem(folder).items():
            yield from self._unlocked(folder / stem, paths)

    def _unlocked(self, path: Path, paths: Sequence[Path]) -> Iterator[Leftover]:
        with suppress(FileNotFoundError), _unused(path) as unused:
            if unused:
                yield self._described("scratch", paths)

    def _single(self, folder: Path, kind: LeftoverKind) -> Iterator[Leftover]:
        for path in _children(folder):
            with suppress(FileNotFoundError):
                yield self._described(kind, [path])

    def _model_folders(self) -> Iterator[Leftover]:
        for stem, paths in _by_stem(self._folders.folders).items():
            digest = _digest_of(stem)
            if all(path.suffix == ".lock" for path in paths):
                yield from self._unlocked(self._folders.folders / stem, paths)
            elif digest is not None:
                with suppress(FileNotFoundError):
                    yield self._described("folder", paths, digest)

    def _notes(self) -> Iterator[Leftover]:
        """Notes about blobs that are gone: what their headers say, and what they were linked from."""
        for path in (*_children(self._folders.metadata), *_children(self._folders.adopted)):
            digest = _digest_of(path.name.removesuffix(".json"))
            if digest is None or not os.path.lexists(self._files.path(digest)):
                with suppress(FileNotFoundError):
                    yield self._described("note", [path])

    def _foreign(self) -> Iterator[Leftover]:
        """Ollama's partial downloads: ``sha256-<hex>-partial``, and ``-partial-0`` and so on for its parts."""
        groups: defaultdict[str, list[Path]] = defaultdict(list)
        for path in _children(self._folders.blobs):
            stem, separator, _ = path.name.partition("-partial")
            if separator and _names_blob(stem):
                groups[stem].append(path)
        for paths in groups.values():
            with suppress(FileNotFoundError):
                yield self._described("foreign", paths)

    def _empty(self) -> Iterator[Leftover]:
        for root in (self._folders.manifests, self._folders.derived):
            for place, folders, files in os.walk(root):
                if not folders and not files and place != str(root):
                    with suppress(FileNotFoundError):
                        yield self._described("empty", [Path(place)])

    def _described(self, kind: LeftoverKind, paths: Sequence[Path], digest: Digest | None = None) -> Leftover:
        """The first path stands for all. Raises `FileNotFoundError`."""
        statuses = [path.lstat() for path in _all_below(paths)]
        return Leftover(
            kind=kind,
            path=min(paths, key=lambda path: len(path.name)).relative_to(self._folders.root).as_posix(),
            size_bytes=0 if kind == "folder" else sum(_disk_bytes(status) for status in statuses),
            modified_at=max(status.st_mtime for status in statuses),
            digest=digest,
        )

    # ── Deleting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _discard(self, leftover: Leftover) -> bool:
        path = self._folders.root / leftover.path
        if not Path(os.path.abspath(path)).is_relative_to(self._folders.root):
            return False
        if leftover.kind == "empty":
            with suppress(OSError):  # something was stored there meanwhile
                for folder in (path, *path.parents):
                    if folder in (self._folders.manifests, self._folders.derived):
                        break
                    folder.rmdir()
            return not path.exists()
        if leftover.kind == "foreign":
            stem = path.name.partition("-partial")[0]
            return self._remove(leftover, path.parent.glob(f"{stem}-partial*"))
        if leftover.kind in ("partial", "scratch"):
            with _unused(path) as unused:
                return unused and self._remove(leftover, _with_stem(path))
        return self._remove(leftover, [path])

    def _remove(self, leftover: Leftover, paths: Iterable[Path]) -> bool:
        found = [path for path in paths if os.path.lexists(path) and path.suffix != ".lock"]
        if not found:
            return leftover.path.endswith(".lock")  # releasing it has removed it
        newest_at = max(path.lstat().st_mtime for path in _all_below(found))
        if newest_at > leftover.modified_at:
            return False
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return True


def _children(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted(folder.iterdir())
    return []


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """The files that belong together: ``x``, ``x.lock``, ``x.ranges``."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for path in _children(folder):
        found[path.name.partition(".")[0]].append(path)
    return found


def _with_stem(path: Path) -> list[Path]:
    stem = path.name.partition(".")[0]
    return [path.parent / stem, *path.parent.glob(f"{stem}.*")]


@contextmanager
def _unused(path: Path) -> Iterator[bool]:
    """Whether nobody holds the lock of `path`, which is held here meanwhile, and removed."""
    lock = FileLock(path.parent / f"{path.name.partition('.')[0]}.lock", remove=True)
    acquired = lock.try_acquire()
    try:
        yield acquired
    finally:
        lock.release()


def _all_below(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from path.rglob("*")


def _disk_bytes(status: os.stat_result) -> int:
    if not stat.S_ISREG(status.st_mode):
        return 0
    blocks: int | None = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else min(status.st_size, blocks * _BLOCK_BYTES)


def _names_blob(name: str) -> bool:
    return name.startswith("sha256-") and _digest_of(name.removeprefix("sha256-")) is not None


def _digest_of(hexadecimal: str) -> Digest | None:
    with suppress(InvalidDigest):
        return parse_digest(f"sha256:{hexadecimal}")
    return None

"""The file of a server's keys, which only its owner can read: ``corral keys`` changes it, the server reads it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from corral.adapters.authenticators.key_texts import KEY_PREFIX, hash_of, id_of, new_key
from corral.adapters.system.blocking_work import in_thread
from corral.adapters.system.file_locks import FileLock
from corral.adapters.system.files import make_folder, replace_file, storage_errors
from corral.core.errors import Conflict, InvalidRequest, StorageError
from corral.core.malformed import MALFORMED
from corral.core.ports.access_keys import AccessKey
from corral.core.regular_files import open_regular
from corral.core.requests.principal import Principal, RequestLimits, Scope

__all__ = ("KeyFile", "StoredKey")

T = TypeVar("T")

_MOST_BYTES = 64 * 1024 * 1024
_VERSION = 1
_NAME = re.compile(r"[\w.@+-][\w.@+ -]{0,63}")


class StoredKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key in the file. `hash` is the SHA-256 of the whole key; times are in seconds since 1970."""

    name: str
    id: str
    hash: str
    scopes: tuple[Scope, ...] = ("infer",)
    models: tuple[str, ...] = ("*",)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    parallel: int | None = None
    shares_prefixes: bool = True
    created_at: float = 0.0
    expires_at: float | None = None

    @property
    def principal(self) -> Principal:
        limits = RequestLimits(
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            parallel=self.parallel,
        )
        return Principal(
            name=self.name,
            scopes=frozenset(self.scopes),
            models=self.models,
            limits=limits,
            shares_prefixes=self.shares_prefixes,
        )


class _Content(msgspec.Struct, frozen=True, kw_only=True):
    version: int = _VERSION
    keys: tuple[StoredKey, ...] = ()


class KeyFile:
    """The `AccessKeys` of a file. A lock beside it keeps processes from undoing each other's changes."""

    def __init__(self, path: Path, clock_s: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock_s = clock_s

    async def create(self, principal: Principal, expires_at: float | None = None) -> str:
        if not _NAME.fullmatch(principal.name):
            raise InvalidRequest(
                f"not the name of a key: {principal.name[:100]!r}", "use at most 64 letters, digits and . _ @ + -"
            )
        key = new_key()
        key_id = id_of(key)
        assert key_id is not None
        limits = principal.limits
        stored = StoredKey(
            name=principal.name,
            id=key_id,
            hash=hash_of(key),
            scopes=tuple(sorted(principal.scopes)),
            models=principal.models,
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            parallel=limits.parallel,
            shares_prefixes=principal.shares_prefixes,
            created_at=self._clock_s(),
            expires_at=expires_at,
        )

        def added(keys: tuple[StoredKey, ...]) -> tuple[StoredKey, ...]:
            if any(one.name == stored.name for one in keys):
                raise Conflict(f"there is a key {stored.name!r} already", f"corral keys revoke {stored.name!r} first")
            return (*keys, stored)

        await self._change(added)
        return key

    async def list(self) -> list[AccessKey]:
        keys = await in_thread(lambda _: self.read())
        return [
            AccessKey(
                principal=one.principal,
                shown=f"{KEY_PREFIX}{one.id}",
                created_at=one.created_at,
                expires_at=one.expires_at,
            )
            for one in sorted(keys, key=lambda one: one.name)
        ]

    async def revoke(self, name: str) -> bool:
        def without(keys: tuple[StoredKey, ...]) -> tuple[StoredKey, ...]:
            return tuple(one for one in keys if one.name != name)

        return await self._change(without)

    def read(self) -> tuple[StoredKey, ...]:
        """The keys in the file; none if there is no file. Blocks. Raises `StorageError`."""
        with storage_errors("cannot read the keys"):
            try:
                with open_regular(self.path) as file:
                    data = file.read(_MOST_BYTES + 1)
            except (FileNotFoundError, NotADirectoryError):
                return ()
        try:
            content = msgspec.json.decode(data, type=_Content)
        except MALFORMED as fault:
            raise StorageError(f"{self.path} is not a file of keys: {fault}", "correct or remove it") from fault
        if content.version != _VERSION:
            raise StorageError(f"{self.path} has version {content.version}, not {_VERSION}", "update Corral")
        return content.keys

    def stamp(self) -> tuple[int, ...]:
        """Changes whenever the file does; empty if there is none. Blocks for as long as a `stat` may."""
        try:
            found = os.stat(self.path)
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    async def _change(self, change: Callable[[tuple[StoredKey, ...]], tuple[StoredKey, ...]]) -> bool:
        """Whether it made a difference."""
        async with FileLock(self.path.with_name(f"{self.path.name}.lock")):
            return await in_thread(lambda _: self._replace(change))

    def _replace(self, change: Callable[[tuple[StoredKey, ...]], tuple[StoredKey, ...]]) -> bool:
        before = self.read()
        after = change(before)
        if after == before:
            return False
        with storage_errors("cannot write the keys"):
            make_folder(self.path.parent)
            data = msgspec.json.format(msgspec.json.encode(_Content(keys=after)), indent=2)
            replace_file(self.path, data, self.path.parent, mode=0o600)
        return True

"""The runtime behind an `AsyncCorral`: assembled at its first use, and bound to that event loop and process."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from corral.api.library.arguments import checked, checked_options, checked_path, refuse_unknown
from corral.api.library.options import CorralOptions
from corral.api.library.portal import FORKED
from corral.core.errors import InvalidRequest
from corral.core.runtime import Runtime
from corral.plugins.assembly import assemble, read_layers

__all__ = ("OwnRuntime",)

_PATHS = (("store", "store"), ("engine", "scheduler.engine"), ("runner", "scheduler.runner"))


class OwnRuntime:
    """Assembles a `Runtime` from the keywords of a constructor, or uses the one among them, which stays open.

    `owner` is the class named in error messages. The first use binds this to its event loop and process, since that
    is where its threads, models and sockets are. Raises `TypeError` for an unknown keyword, `InvalidRequest` or
    `InvalidOption` for a bad value.
    """

    def __init__(self, owner: str, setup: CorralOptions) -> None:
        refuse_unknown(f"{owner}()", setup, CorralOptions.__annotations__)
        self._owner = owner
        self._flags = _flags(setup)
        config = setup.get("config")
        self._config = config if config is None or config == "" else checked_path("config", config)
        self._runtime: Runtime | None = checked("runtime", setup.get("runtime"), Runtime, None)
        self._is_owned = self._runtime is None
        self._assembling = asyncio.Lock()
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process_id = None if self._is_owned else os.getpid()

    async def get(self) -> Runtime:
        """Raises `RuntimeError` once closed, or on another loop or in another process; `SettingsError` if the settings
        are invalid.
        """
        self._require_place()
        async with self._assembling:
            if self._is_closed:
                raise RuntimeError("this Corral is closed")
            if self._runtime is None:
                layers = await asyncio.to_thread(read_layers, self._config, flags=self._flags)
                self._runtime = (await assemble(layers, default_runner="thread")).runtime
            return self._runtime

    async def aclose(self) -> None:
        """Closes a runtime that was assembled here. May be called twice; does nothing in a forked child."""
        if self._is_closed or self._is_forked:
            return
        if self._loop is not None:
            self._require_place()
        async with self._assembling:
            self._is_closed = True
            runtime, self._runtime = self._runtime, None
        if runtime is not None and self._is_owned:
            await runtime.aclose()

    @property
    def _is_forked(self) -> bool:
        return self._process_id not in (None, os.getpid())

    def _require_place(self) -> None:
        if self._is_closed:
            raise RuntimeError("this Corral is closed")
        if self._is_forked:
            raise RuntimeError(FORKED.format(name=self._owner))
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._process_id = loop, os.getpid()
        elif self._loop is not loop:
            raise RuntimeError(
                f"this {self._owner} belongs to the event loop that first used it, and this is a different one "
                "(each asyncio.run creates a new one): create one inside each asyncio.run, with "
                "'async with AsyncCorral() as corral:', or use Corral, which has its own loop"
            )


def _flags(setup: CorralOptions) -> dict[str, Any]:
    """The settings that the keywords stand for, by dotted path."""
    flags = checked_options(setup.get("settings"), "settings")
    for name, path in _PATHS:
        value = checked(name, setup.get(name), str, None)
        if value is not None:
            flags[path] = value
    if setup.get("models") is not None:
        if "store" in flags and flags["store"] != "filesystem":
            raise InvalidRequest("models: this is the folder of the store filesystem", "leave it out, or store")
        flags["stores.filesystem.root"] = checked_path("models", setup["models"])
    return flags

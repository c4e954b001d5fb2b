"""What one call of the command line works with: settings, plugins, the library, a server to talk to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from corral.api.cli.client import ServerClient
from corral.api.cli.model_names import names_in
from corral.api.library import Corral
from corral.core.containment import contained
from corral.core.errors import SettingsError
from corral.plugins.assembly import (
    Layers,
    PluginManager,
    Settings,
    decode_settings,
    load_plugins,
    parse_assignment,
    read_layers,
    resolve,
)

__all__ = ("Session",)


class Session:
    """Everything is read when it is first asked for. Raises `SettingsError` then."""

    def __init__(self, config: str | None, assignments: Sequence[str], commands: Iterable[str] = ()) -> None:
        """`commands` are the command line's own, whose names no plugin gets."""
        self._config = config
        self._commands = tuple(commands)
        self._assignments = assignments
        self.flags: dict[str, Any] = {}

    def set(self, **flags: Any) -> None:
        """A command's own flags, strongest of all: ``set(scheduler__engine="fake")``. None says nothing."""
        self.flags |= {name.replace("__", "."): value for name, value in flags.items() if value is not None}
        for read in ("layers", "settings"):  # some types of arguments needed the plugins before the flags were known
            self.__dict__.pop(read, None)

    @property
    def stated(self) -> dict[str, Any]:
        """All flags, by setting."""
        return dict(parse_assignment(text) for text in self._assignments) | self.flags

    @cached_property
    def layers(self) -> Layers:
        return read_layers(self._config, flags=self.stated)

    @cached_property
    def manager(self) -> PluginManager:
        return load_plugins(self.layers, self._commands)

    @cached_property
    def settings(self) -> Settings:
        return decode_settings(self.layers, self.manager)

    def resolve(self, target: str) -> Any:
        """Imports what a spec names. Raises `PluginError`, also where the import would end the program."""
        return contained(resolve, target)

    def library(self) -> Corral:
        """Models in this process; the caller closes it."""
        setup: dict[str, Any] = {"settings": self.stated}
        if self._config is not None:
            setup["config"] = self._config
        return Corral(**setup)

    def model_names(self) -> list[str]:
        """Of the store."""
        with self.library() as corral:
            return names_in(corral)

    def server(self, timeout_s: float | None = None) -> ServerClient:
        """The server at the address that is set, up or not. `timeout_s` as in `ServerClient`."""
        return ServerClient(self.settings.server.host, timeout_s=timeout_s)

    @property
    def address_is_stated(self) -> bool:
        """True where a flag, a variable or a file names the server's address; False where it is the default one."""
        return any(row.path == "server.host" and row.origin != "default" for row in self.settings.origins)

    def stated_wrongly(self, fault: SettingsError) -> bool:
        """True where an error about settings names one that was set on the command line, and not somewhere else."""
        message = fault.message.replace('"', "")
        stated = [path.replace('"', "") for path in self.stated]
        # An unknown setting is named by its path as far as its first part that is unknown.
        unknown = message.removeprefix("unknown setting ")
        return any(path in message or path.startswith(f"{unknown}.") for path in stated)

"""What an invocation of the command line works with: settings, plugins, the library, and the server."""

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
    """Everything is read at its first use, which raises `SettingsError` if the settings are invalid."""

    def __init__(self, config: str | None, assignments: Sequence[str], commands: Iterable[str] = ()) -> None:
        """`commands` are the names of Corral's own commands, which plugins cannot use."""
        self._config = config
        self._commands = tuple(commands)
        self._assignments = assignments
        self.flags: dict[str, Any] = {}

    def set(self, **flags: Any) -> None:
        """Sets a command's own flags, which override all else: ``set(scheduler__engine="fake")``. None is ignored."""
        self.flags |= {name.replace("__", "."): value for name, value in flags.items() if value is not None}
        for read in ("layers", "settings"):  # parsing arguments may have read them before the flags were known
            self.__dict__.pop(read, None)

    @property
    def stated(self) -> dict[str, Any]:
        """All settings given on the command line, by path."""
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
        """Imports what a spec names. Raises `PluginError`, even if the import tries to exit the program."""
        return contained(resolve, target)

    def library(self) -> Corral:
        """A library instance, which runs models in this process. The caller closes it."""
        setup: dict[str, Any] = {"settings": self.stated}
        if self._config is not None:
            setup["config"] = self._config
        return Corral(**setup)

    def model_names(self) -> list[str]:
        """The names of the models in the store."""
        with self.library() as corral:
            return names_in(corral)

    def server(self, timeout_s: float | None = None) -> ServerClient:
        """A client for the configured server, whether it is up or not. `timeout_s` as in `ServerClient`."""
        settings = self.settings
        return ServerClient(settings.server.host, api_key=settings.cli.api_key, timeout_s=timeout_s)

    @property
    def address_is_stated(self) -> bool:
        """Whether a flag, a variable or a file sets the server's address."""
        return any(row.path == "server.host" and row.origin != "default" for row in self.settings.origins)

    def stated_wrongly(self, fault: SettingsError) -> bool:
        """Whether a settings error is about a setting that was given on the command line."""
        message = fault.message.replace('"', "")
        stated = [path.replace('"', "") for path in self.stated]
        # The error names an unknown setting by its path up to the first unknown part.
        unknown = message.removeprefix("unknown setting ")
        return any(path in message or path.startswith(f"{unknown}.") for path in stated)

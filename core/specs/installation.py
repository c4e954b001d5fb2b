"""Which packages an engine or converter needs, and whether they are installed: `HasRequirements`, `Installation`."""

from __future__ import annotations

from typing import Protocol

__all__ = ("HasRequirements", "Installation")


class HasRequirements(Protocol):
    """The fields of `EngineSpec` and `ConverterSpec` that say what must be installed.

    `requirement` is a distribution with its versions, as pip takes them (``onnx>=1.17``). It may name several,
    separated by ``|`` and the usual one first, of which one is enough. `module` and `needs` must be importable.
    """

    @property
    def requirement(self) -> str | None: ...
    @property
    def module(self) -> str | None: ...
    @property
    def needs(self) -> tuple[str, ...]: ...


class Installation(Protocol):
    """The packages of this Python environment. They are looked up each time, and none is imported."""

    def check(self, spec: HasRequirements) -> None:
        """Raises `PluginError` for a requirement that cannot be understood or that accepts any version."""
        ...

    def version(self, spec: HasRequirements) -> str | None:
        """The installed version of what `spec` requires; None if it requires nothing or it is not installed."""
        ...

    def missing(self, spec: HasRequirements) -> str:
        """Why `spec` cannot run here, in words; empty if everything is installed."""
        ...

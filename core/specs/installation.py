"""What an engine or a converter needs installed, and who knows whether it is: `HasRequirements`, `Installation`."""

from __future__ import annotations

from typing import Protocol

__all__ = ("HasRequirements", "Installation")


class HasRequirements(Protocol):
    """The fields of `EngineSpec` and `ConverterSpec` that say what must be installed.

    `requirement` is a distribution with its versions, as pip takes them (``onnx>=1.17``). It may name several of which
    one is enough, ``|`` between them, the usual one first. `module` and `needs` are modules that must be importable.
    """

    @property
    def requirement(self) -> str | None: ...
    @property
    def module(self) -> str | None: ...
    @property
    def needs(self) -> tuple[str, ...]: ...


class Installation(Protocol):
    """The packages of this Python environment. They are looked up anew each time, and none is imported."""

    def check(self, spec: HasRequirements) -> None:
        """Raises `PluginError` for a requirement that cannot be understood or that accepts any version."""
        ...

    def version(self, spec: HasRequirements) -> str | None:
        """The installed version of what `spec` requires; None if it requires nothing or it is not installed."""
        ...

    def missing(self, spec: HasRequirements) -> str:
        """Why `spec` cannot run here, in words; empty if everything is installed."""
        ...

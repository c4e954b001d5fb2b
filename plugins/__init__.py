"""What a plugin author imports.

A plugin is a module named by an entry point of the group ``corral``::

    [project.entry-points.corral]
    parrot = "corral_parrot"

It states the plugin API it is written for, and marks its hooks::

    from corral.plugins import EngineRegistrar, hookimpl

    CORRAL_PLUGIN_API = (1, 0)

    @hookimpl
    def corral_register_engines(register: EngineRegistrar) -> None:
        register(SPEC)

Hooks only register; the specs hold import paths, so that listing models never imports an engine.
"""

from __future__ import annotations

from corral.plugins.hookspecs import PROJECT, hookimpl
from corral.plugins.registrars import (
    ChatTemplateRegistrar,
    CommandRegistrar,
    ConverterRegistrar,
    EngineRegistrar,
    ManifestFormatRegistrar,
    MetadataReaderRegistrar,
    RouteRegistrar,
    RunnerRegistrar,
    SourceRegistrar,
    StoreRegistrar,
)
from corral.plugins.specs import (
    ChatTemplateSpec,
    CommandSpec,
    ManifestFormatSpec,
    MetadataReaderSpec,
    RouteSpec,
    RunnerSpec,
    SourceSpec,
    Stores,
    StoreSpec,
)

__all__ = (
    "PROJECT",
    "ChatTemplateRegistrar",
    "ChatTemplateSpec",
    "CommandRegistrar",
    "CommandSpec",
    "ConverterRegistrar",
    "EngineRegistrar",
    "ManifestFormatRegistrar",
    "ManifestFormatSpec",
    "MetadataReaderRegistrar",
    "MetadataReaderSpec",
    "RouteRegistrar",
    "RouteSpec",
    "RunnerRegistrar",
    "RunnerSpec",
    "SourceRegistrar",
    "SourceSpec",
    "StoreRegistrar",
    "StoreSpec",
    "Stores",
    "hookimpl",
)

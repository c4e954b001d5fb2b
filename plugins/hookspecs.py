"""The hooks a plugin may implement. All are called once, when Corral is assembled; none sits in the token path."""

from __future__ import annotations

import pluggy

from corral.plugins.registrars import (
    ChatLanguageRegistrar,
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

__all__ = (
    "PROJECT",
    "corral_register_chat_languages",
    "corral_register_commands",
    "corral_register_converters",
    "corral_register_engines",
    "corral_register_manifest_formats",
    "corral_register_metadata_readers",
    "corral_register_routes",
    "corral_register_runners",
    "corral_register_sources",
    "corral_register_stores",
    "hookimpl",
)

PROJECT = "corral"

_hookspec = pluggy.HookspecMarker(PROJECT)

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's hook: ``@hookimpl`` above ``def corral_register_engines(register): …``."""


@_hookspec
def corral_register_engines(register: EngineRegistrar) -> None:
    """Register engines that load and run models. Called first, before the settings of engines are decoded."""


@_hookspec
def corral_register_converters(register: ConverterRegistrar) -> None:
    """Register converters of models from one format to another. Called after the engines, whose matches name them."""


@_hookspec
def corral_register_runners(register: RunnerRegistrar) -> None:
    """Register places where a loaded model lives. Called after the converters; created on assembly."""


@_hookspec
def corral_register_stores(register: StoreRegistrar) -> None:
    """Register stores of blobs and manifests. Called after the runners; only the store that is set is created."""


@_hookspec
def corral_register_sources(register: SourceRegistrar) -> None:
    """Register schemes of references to pull from. Called after the stores; created on assembly."""


@_hookspec
def corral_register_manifest_formats(register: ManifestFormatRegistrar) -> None:
    """Register manifest dialects. Called after the sources; the first that recognises a manifest reads it."""


@_hookspec
def corral_register_metadata_readers(register: MetadataReaderRegistrar) -> None:
    """Register readers of weights files' headers. Called after the manifest formats; the first that recognises wins."""


@_hookspec
def corral_register_chat_languages(register: ChatLanguageRegistrar) -> None:
    """Register chat template languages. Called after the readers; the first that has a template for a model wins."""


@_hookspec
def corral_register_routes(register: RouteRegistrar) -> None:
    """Register HTTP routes. Called after the chat templates; imported by ``corral serve`` only, when it starts."""


@_hookspec
def corral_register_commands(register: CommandRegistrar) -> None:
    """Register subcommands of ``corral``. Called last; a command is imported when it is called or asked for help."""

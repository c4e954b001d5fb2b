"""Markov chains as models for Corral: what the plugin registers."""

from __future__ import annotations

from corral.plugins import CommandSpec, EngineSpec, MetadataReaderSpec, Registrar, RouteSpec, hookimpl
from corral_markov.spec import SPEC

__all__ = ("CORRAL_PLUGIN_API", "SPEC")

CORRAL_PLUGIN_API = (1, 0)


@hookimpl
def corral_register_engines(register: Registrar[EngineSpec]) -> None:
    register(SPEC)


@hookimpl
def corral_register_metadata_readers(register: Registrar[MetadataReaderSpec]) -> None:
    register(MetadataReaderSpec(name="markov", target="corral_markov.reader:MarkovReader"))


@hookimpl
def corral_register_commands(register: Registrar[CommandSpec]) -> None:
    register(CommandSpec(name="markov", summary="Make Markov chains.", target="corral_markov.cli:markov"))


@hookimpl
def corral_register_routes(register: Registrar[RouteSpec]) -> None:
    register(RouteSpec(name="markov", target="corral_markov.http:router"))

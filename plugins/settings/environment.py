"""Reads settings from environment variables: ``CORRAL_*``, and those of Ollama that have a meaning here."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from corral.core.errors import SettingsError
from corral.plugins.settings.types import Address, Duration

__all__ = ("VARIABLES", "EnvironmentLeaf", "Variable", "read_environment")

_log = logging.getLogger(__name__)

_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def _text(text: str) -> str:
    return text


def _flag(text: str) -> bool:
    """Booleans as Ollama reads them: Go's spellings; any other text is true, unless it is empty."""
    return text not in _FALSE


def _no_flag(text: str) -> bool:
    return not _flag(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"\+?\d{1,18}", text):
        raise ValueError("not an integer of 0 or more")
    return int(text)


def _count_or_automatic(text: str) -> int | UnsetType:
    """For Ollama, 0 means "decide by itself", which an engine does if it gets no value."""
    return _count(text) or UNSET


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _ollama_address(text: str) -> str:
    """As Ollama: an invalid port falls back to the default. The setting rejects anything that is not an address."""
    address = Address(text)
    if address.problem is None:
        return text
    return text if Address(address.url).problem else address.url


def _duration(text: str) -> str:
    Duration(text)
    return text


def _log_level(text: str) -> str | UnsetType:
    """``OLLAMA_DEBUG`` is a boolean or a number: 1 is debug, 2 is trace, 0 leaves things as they are."""
    if text.isdecimal():
        return (UNSET, "debug", "trace")[min(int(text), 2)]
    return "debug" if _flag(text) else UNSET


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """One setting's variables: ``CORRAL_<name>`` and, if Ollama has it, ``OLLAMA_<name>``.

    `path` is the setting; ``*`` for the engine stands for every engine that has an option of that name.
    `parse_ollama` reads Ollama's variable if it follows other rules.
    """

    name: str
    path: tuple[str, ...]
    parse: Callable[[str], Any] = _text
    ollama: bool = False
    parse_ollama: Callable[[str], Any] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The variables, in order of precedence."""
        return (f"CORRAL_{self.name}", *((f"OLLAMA_{self.name}",) if self.ollama else ()))


VARIABLES = (
    Variable(name="HOST", path=("server", "host"), ollama=True, parse_ollama=_ollama_address),
    Variable(name="AUTH", path=("server", "auth")),
    Variable(name="API_KEY", path=("cli", "api_key")),
    Variable(name="ORIGINS", path=("server", "origins"), parse=_list, ollama=True),
    Variable(name="STORE", path=("store",)),
    Variable(name="STORE_LAYERS", path=("store_layers",), parse=_list),
    Variable(name="REGISTRY", path=("registry",)),
    Variable(name="NOPRUNE", path=("prune",), parse=_no_flag, ollama=True),
    Variable(name="GO_TEMPLATE", path=("go_template",), parse=_flag, ollama=True),
    Variable(name="MODELS", path=("stores", "filesystem", "root"), ollama=True),
    Variable(name="ENGINE", path=("scheduler", "engine")),
    Variable(name="RUNNER", path=("scheduler", "runner")),
    Variable(name="KEEP_ALIVE", path=("scheduler", "keep_alive"), parse=_duration, ollama=True),
    Variable(name="LOAD_TIMEOUT", path=("scheduler", "load_timeout"), parse=_duration, ollama=True),
    Variable(name="MAX_LOADED_MODELS", path=("scheduler", "max_loaded_models"), parse=_count, ollama=True),
    Variable(name="MAX_QUEUE", path=("scheduler", "max_queue"), parse=_count, ollama=True),
    Variable(name="NUM_PARALLEL", path=("engines", "*", "num_parallel"), parse=_count_or_automatic, ollama=True),
    Variable(name="CONTEXT_LENGTH", path=("engines", "*", "num_ctx"), parse=_count_or_automatic, ollama=True),
    Variable(name="FLASH_ATTENTION", path=("engines", "*", "flash_attention"), parse=_flag, ollama=True),
    Variable(name="KV_CACHE_TYPE", path=("engines", "*", "kv_cache_type"), ollama=True, parse_ollama=str.lower),
    Variable(name="DEBUG", path=("log", "level"), parse=_log_level, ollama=True),
    Variable(name="LOG_LEVEL", path=("log", "level")),
    Variable(name="LOG_JSON", path=("log", "json"), parse=_flag),
    Variable(name="NOHISTORY", path=("cli", "history"), parse=_no_flag, ollama=True),
    Variable(name="RESPONSES", path=("responses", "store")),
    Variable(name="WEB_SEARCH", path=("web", "search")),
    Variable(name="WEB_FETCH", path=("web", "fetch"), parse=_flag),
    Variable(name="SEARXNG_URL", path=("search_providers", "searxng", "url")),
    Variable(name="PLUGINS", path=("plugins", "allow"), parse=_list),
    Variable(name="PLUGINS_DISABLED", path=("plugins", "block"), parse=_list),
)


class EnvironmentLeaf(msgspec.Struct, frozen=True, kw_only=True):
    """A value, and the variable that contained it."""

    value: Any
    variable: str


def read_environment(environment: Mapping[str, str]) -> dict[tuple[str, ...], EnvironmentLeaf]:
    """The settings found in the environment, by path.

    Values are trimmed of spaces and quotes; empty ones are ignored. Ollama's variables are forgiving, as they are
    in Ollama: an invalid one is logged and skipped. Raises `SettingsError` for a ``CORRAL_*`` one.
    """
    found: dict[tuple[str, ...], EnvironmentLeaf] = {}
    for variable in VARIABLES:
        for name in reversed(variable.names):
            text = environment.get(name, "").strip().strip("\"'")
            if not text:
                continue
            own = name.startswith("CORRAL_")
            parse = variable.parse if own else variable.parse_ollama or variable.parse
            try:
                value = parse(text)
            except ValueError as fault:
                if own:
                    raise SettingsError(f"{name}={text!r}: {fault}", f"correct or unset {name}") from fault
                _log.warning("%s=%r is ignored: %s", name, text, fault)
                continue
            if value is not UNSET:
                found[variable.path] = EnvironmentLeaf(value=value, variable=name)
    return found

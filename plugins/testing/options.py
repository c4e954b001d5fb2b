"""The kit's options on pytest's command line: which installed engine to test, and with which model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from corral.core.choices import in_listed_case
from corral.core.specs.engines import EngineSpec, LoadRequest, LocalFile
from corral.core.toml_values import toml_value
from corral.plugins.hooks import ENGINES
from corral.plugins.manager import PluginManager

__all__ = ("engine_of", "load_request_of", "pytest_addoption", "pytest_configure")

_ENGINE = pytest.StashKey[EngineSpec]()
_REQUEST = pytest.StashKey[LoadRequest]()
_CONFIG_SUFFIXES = {".json", ".txt", ".jinja", ".model"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of ``corral.plugins.testing.kit``."""
    group = parser.getgroup("corral", "Corral's conformance kit (--pyargs corral.plugins.testing.kit)")
    group.addoption("--corral-engine", metavar="NAME", help="The installed engine to test.")
    group.addoption("--corral-model", metavar="PATH", help="The file or folder that the engine loads.")
    group.addoption(
        "--corral-option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="A load option; the value is TOML, or otherwise a text. May be given several times.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Finds the engine before anything runs. Raises `UsageError` for one that is not installed, and for its options."""
    name = config.getoption("--corral-engine")
    if name is not None:
        spec = _installed(name)
        config.stash[_ENGINE] = spec
        config.stash[_REQUEST] = LoadRequest(
            model="kit:latest",
            files=_files(config.getoption("--corral-model")),
            load_options=_load_options(spec, dict(map(_assignment, config.getoption("--corral-option")))),
        )


def engine_of(config: pytest.Config) -> EngineSpec:
    """The engine that the command line names. Without one, there is nothing to test, and the run ends."""
    if _ENGINE not in config.stash:
        pytest.exit("name the engine: pytest -p corral.plugins.testing … --corral-engine NAME", returncode=4)
    return config.stash[_ENGINE]


def load_request_of(config: pytest.Config) -> LoadRequest:
    """The engine's request to load: the model's files, and its load options."""
    return config.stash[_REQUEST]


def _installed(name: str) -> EngineSpec:
    manager = PluginManager()
    manager.load_entry_points()
    known = {spec.name: spec for spec in manager.specs(ENGINES)}
    if name not in known:
        skipped = [f"{status.name} ({status.reason})" for status in manager.statuses if status.state != "loaded"]
        raise pytest.UsageError(
            f"--corral-engine {name}: choose one of {', '.join(known)}"
            + (f"; plugins that were skipped: {', '.join(skipped)}" if skipped else "")
        )
    return known[name]


def _load_options(spec: EngineSpec, stated: dict[str, Any]) -> dict[str, Any]:
    if spec.load_options is None:
        if stated:
            raise pytest.UsageError(f"--corral-option: the {spec.name} engine has no load options")
        return {}
    unknown = stated.keys() - set(spec.load_options.__struct_fields__)
    if unknown:
        known = ", ".join(spec.load_options.__struct_fields__)
        raise pytest.UsageError(f"--corral-option {min(unknown)}: the load options of {spec.name} are {known}")
    try:
        listed = in_listed_case(stated, spec.load_options)
        options: dict[str, Any] = msgspec.to_builtins(msgspec.convert(listed, spec.load_options))
    except msgspec.ValidationError as error:
        raise pytest.UsageError(f"--corral-option: {error}") from error
    return options


def _assignment(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise pytest.UsageError(f"--corral-option {text}: write KEY=VALUE")
    return key, toml_value(value)


def _files(model: str | None) -> tuple[LocalFile, ...]:
    if model is None:
        return ()
    path = Path(model).absolute()
    if path.is_file():
        return (LocalFile(role="weights", path=str(path)),)
    if not path.is_dir():
        raise pytest.UsageError(f"--corral-model {model}: there is no such file or folder")
    found = sorted(file for file in path.rglob("*") if file.is_file())
    return tuple(
        LocalFile(
            role="config" if file.suffix in _CONFIG_SUFFIXES else "weights",
            path=str(file),
            name=file.relative_to(path).as_posix(),
        )
        for file in found
    )

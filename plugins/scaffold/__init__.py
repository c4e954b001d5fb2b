"""Writes a new plugin package: a working engine with its tests."""

from __future__ import annotations

import re
import shutil
import tempfile
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

import msgspec

from corral.plugins import Conflict, InvalidName, StorageError, map_errors

__all__ = ("FORMS", "PluginNames", "plugin_names", "write_plugin")

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_LONGEST = 40
_PREFIX = "corral-"
_SUFFIX = ".template"
_PACKAGE = "package"

# The value of `EngineSpec.form`, the runners, and the task.
_FORMS = {
    "generator": {"form": "generator", "runners": '"process", "thread"', "task": "completion"},
    "step": {"form": "step", "runners": '"process", "thread"', "task": "completion"},
    "chat": {"form": "running", "runners": '"event_loop",', "task": "chat"},
}
FORMS = tuple(_FORMS)
"""The forms of an engine: one request at a time, batches, or whole conversations."""


class PluginNames(msgspec.Struct, frozen=True, kw_only=True):
    """The names of a plugin: of its engine, its distribution, and its import package."""

    engine: str
    distribution: str
    package: str


def plugin_names(name: str) -> PluginNames:
    """``parrot`` and ``corral-parrot`` both make the engine ``parrot`` in ``corral-parrot``. Raises `InvalidName`."""
    engine = name.removeprefix(_PREFIX)
    if _NAME.fullmatch(engine) is None or len(engine) > _LONGEST:
        raise InvalidName(
            f"{name[:100]!r} is not a valid plugin name",
            f"{_LONGEST} lower-case letters, digits and single hyphens at most, starting with a letter, such as parrot",
        )
    distribution = f"{_PREFIX}{engine}"
    return PluginNames(engine=engine, distribution=distribution, package=distribution.replace("-", "_"))


def write_plugin(names: PluginNames, parent: Path, form: str = "generator") -> Path:
    """Writes the package's folder under `parent`, completely or not at all, and returns it. `form` is one of `FORMS`.

    Raises `Conflict` if the folder exists, `StorageError` if it cannot be written.
    """
    folder = parent / names.distribution
    if folder.exists() or folder.is_symlink():
        raise Conflict(f"{folder} already exists", "choose another name, or another folder with --dir")
    with map_errors({OSError: StorageError}, f"cannot write {folder}"):
        parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{names.distribution}-", dir=parent))
        try:
            words = msgspec.structs.asdict(names) | _FORMS[form]
            _write(files(__name__) / "templates", made, words)
            _write(files(__name__) / "forms" / form, made, words)
            made.chmod(0o755)
            made.rename(folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    return folder


def _write(source: Traversable, target: Path, words: dict[str, str]) -> None:
    for entry in source.iterdir():
        name = words["package"] if entry.name == _PACKAGE else entry.name
        if entry.is_dir():
            (target / name).mkdir(exist_ok=True)
            _write(entry, target / name, words)
        elif name.endswith(_SUFFIX):
            name = Template(name.removesuffix(_SUFFIX)).substitute(words)
            text = Template(entry.read_text(encoding="utf-8")).substitute(words)
            (target / name).write_text(text, encoding="utf-8")

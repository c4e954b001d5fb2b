"""The table of hooks is the one place that says what plugins can register."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import corral.plugins
from corral.plugins import hooks
from corral.plugins.assembly import decode_settings
from corral.plugins.hook_kinds import Factories
from corral.plugins.hooks import HOOKS
from corral.plugins.manager import PluginManager
from corral.plugins.pluggy_markers import HookSpecs
from corral.plugins.settings.reading import read_layers


@pytest.mark.parametrize("kind", [kind for kind in HOOKS if isinstance(kind, Factories)], ids=lambda kind: kind.plural)
def test_few_files_know_a_kind_of_factory(kind: Factories[Any, Any]) -> None:
    """That of the specs, the table, the assembly, and the plugin that registers what comes with Corral, if any."""
    [constant] = [name for name, value in vars(hooks).items() if value is kind]
    names = re.compile(rf"\b({constant}|{kind.spec_type.__name__}|{kind.hook})\b")
    root = Path(corral.__file__).parent
    files = [file for package in ("core", "adapters", "plugins") for file in (root / package).rglob("*.py")]
    files = [file for file in files if root / "plugins" / "testing" not in file.parents]
    found = {file.relative_to(root).as_posix() for file in files if names.search(file.read_text("utf-8"))}
    assert found - {"plugins/builtin.py"} == {"plugins/hook_specs.py", "plugins/hooks.py", "plugins/assembly.py"}


def test_everything_about_a_kind_of_hook_follows_from_its_row() -> None:
    """A row alone gives the hook, its section of the settings, its export for authors, and its specs in the manager."""
    manager = PluginManager()
    manager.load_entry_points([EntryPoint("builtin", "corral.plugins.builtin", "corral")])
    for kind in HOOKS:
        assert list(inspect.signature(getattr(HookSpecs, kind.hook)).parameters) == ["register"]
        assert getattr(corral.plugins, kind.spec_type.__name__) is kind.spec_type
        assert {type(spec) for spec in manager.specs(kind)} <= {kind.spec_type}
    settings = decode_settings(read_layers("", environment={}), manager)
    assert set(settings.parts) == {kind.plural for kind in HOOKS if isinstance(kind, Factories)}

"""Each plugin is accepted completely or not at all, independently of the others."""

from __future__ import annotations

import asyncio
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest

from corral.core.errors import PluginError
from corral.core.specs.engines import EngineSpec, Match
from corral.plugins import (
    Registrar,
    RunnerSpec,
    SourceSpec,
    hookimpl,
)
from corral.plugins.assembly import assemble
from corral.plugins.hook_kinds import Factories
from corral.plugins.hooks import (
    ENGINES,
    HOOKS,
    RUNNERS,
    STORES,
)
from corral.plugins.manager import PluginManager
from corral.plugins.settings.reading import read_layers
from corral.plugins.specs import build, resolve


def engine(name: str, **changes: Any) -> EngineSpec:
    spec = EngineSpec(
        name=name,
        summary="a test",
        form="generator",
        load="nowhere:load",
        match=lambda model, metadata, options: Match(score=0, reason="never"),
        estimate=lambda record, metadata, options: {},
    )
    return msgspec.structs.replace(spec, **changes)


class EnginePlugin:
    """A plugin that registers the specs it was created with."""

    CORRAL_PLUGIN_API = (1, 0)

    def __init__(self, *specs: Any) -> None:
        self._specs = specs

    @hookimpl
    def corral_register_engines(self, register: Registrar[EngineSpec]) -> None:
        for spec in self._specs:
            register(spec)


def only_status(manager: PluginManager, name: str) -> tuple[str, str]:
    status = next(status for status in manager.statuses if status.name == name)
    return status.state, status.reason


def test_a_plugin_registers_an_engine() -> None:
    """What a hook registers is there, in order, and the status says what the plugin provides."""
    manager = PluginManager()
    manager.register(EnginePlugin(engine("a"), engine("b")), "parrot")
    assert [spec.name for spec in manager.specs(ENGINES)] == ["a", "b"]
    assert manager.statuses[0].provides == ("engine: a", "engine: b")
    assert manager.complete


def test_the_builtin_plugin_is_found_by_its_entry_point() -> None:
    """Corral's own engines and stores are registered through the installed entry point, like any plugin's."""
    manager = PluginManager()
    manager.load_entry_points()
    assert only_status(manager, "builtin") == ("loaded", "")
    assert "llama-cpp" in [spec.name for spec in manager.specs(ENGINES)]
    assert {spec.name for spec in manager.specs(STORES)} >= {"filesystem", "memory"}
    assert manager.statuses[0].distribution == "corral"


@pytest.mark.parametrize("kind", [kind for kind in HOOKS if isinstance(kind, Factories)])
def test_every_builtin_target_can_be_built(kind: Factories[Any, Any]) -> None:
    """No import path of the built-in plugin is misspelt, and no factory needs more than its settings."""
    manager = PluginManager()
    manager.load_entry_points([EntryPoint("builtin", "corral.plugins.builtin", "corral")])
    for spec in manager.specs(kind):
        # One on a registry is made in tests/contracts/remote_stores.py; SearXNG is nowhere unless a setting says where.
        if getattr(spec, "registry", None) is None and spec.name != "searxng":
            kind.check_part(spec.name, build(spec))


def test_a_plugin_that_cannot_be_imported_is_skipped() -> None:
    """The others are loaded, and the reason is kept."""
    manager = PluginManager()
    manager.load_entry_points(
        [
            EntryPoint("absent", "corral_no_such_module", "corral"),
            EntryPoint("builtin", "corral.plugins.builtin", "corral"),
        ]
    )
    state, reason = only_status(manager, "absent")
    assert state == "broken"
    assert "corral_no_such_module" in reason
    assert only_status(manager, "builtin")[0] == "loaded"
    assert not manager.complete


@pytest.mark.parametrize("raised", [RuntimeError("no luck"), SystemExit("no luck"), PluginError("no luck")])
def test_a_plugin_whose_hook_raises_leaves_nothing_behind(raised: BaseException) -> None:
    """What it registered before it raised is removed, too."""

    class Half(EnginePlugin):
        @hookimpl
        def corral_register_runners(self, register: Registrar[RunnerSpec]) -> None:
            raise raised

    manager = PluginManager()
    manager.register(Half(engine("a")), "half")
    state, reason = only_status(manager, "half")
    assert state == "broken"
    assert "no luck" in reason
    assert manager.specs(ENGINES) == ()
    manager.register(EnginePlugin(engine("a")), "whole")
    assert [spec.name for spec in manager.specs(ENGINES)] == ["a"]


def test_an_unknown_hook_is_named() -> None:
    """A misspelt hook makes the plugin broken instead of silent."""

    class Misspelt(EnginePlugin):
        @hookimpl
        def corral_register_engine(self, register: Registrar[EngineSpec]) -> None: ...

    manager = PluginManager()
    manager.register(Misspelt(), "misspelt")
    state, reason = only_status(manager, "misspelt")
    assert state == "broken"
    assert "corral_register_engine is not a hook" in reason


def test_an_unmarked_hook_is_named() -> None:
    """A hook without the marker would never be called, so it is reported to the author."""

    def corral_register_engines(register: Registrar[EngineSpec]) -> None: ...

    plugin = ModuleType("unmarked")
    plugin.CORRAL_PLUGIN_API = (1, 0)  # type: ignore[attr-defined]
    plugin.corral_register_engines = corral_register_engines  # type: ignore[attr-defined]
    manager = PluginManager()
    manager.register(plugin, "unmarked")
    assert only_status(manager, "unmarked") == (
        "broken",
        "ValueError: corral_register_engines is not marked with @corral.plugins.hookimpl",
    )


def test_a_hook_with_other_arguments_is_refused() -> None:
    """pluggy's own complaint is the reason."""

    class Wrong:
        CORRAL_PLUGIN_API = (1, 0)

        @hookimpl
        def corral_register_engines(self, registrar: Registrar[EngineSpec]) -> None: ...

    manager = PluginManager()
    manager.register(Wrong(), "wrong")
    state, reason = only_status(manager, "wrong")
    assert state == "broken"
    assert "registrar" in reason


def test_a_wrong_type_is_refused() -> None:
    """A registrar takes specs of its kind only."""
    manager = PluginManager()
    manager.register(EnginePlugin({"name": "a"}), "untyped")
    state, reason = only_status(manager, "untyped")
    assert state == "broken"
    assert "engine must be EngineSpec, not dict" in reason


def test_a_taken_name_is_refused() -> None:
    """The first plugin keeps the name; the second is skipped with an error that says who has it."""
    manager = PluginManager()
    manager.register(EnginePlugin(engine("a")), "first")
    manager.register(EnginePlugin(engine("b"), engine("a")), "second")
    assert [spec.name for spec in manager.specs(ENGINES)] == ["a"]
    assert "engine 'a' is already registered by the plugin 'first'" in only_status(manager, "second")[1]


def test_a_name_registered_twice_by_one_plugin_is_refused() -> None:
    """One plugin may not shadow itself either."""
    manager = PluginManager()
    manager.register(EnginePlugin(engine("a"), engine("a")), "twice")
    assert "registered twice" in only_status(manager, "twice")[1]


def test_two_plugins_of_one_name_keep_the_first() -> None:
    """A second plugin with the same name is refused, and the first is unaffected."""
    manager = PluginManager()
    manager.register(EnginePlugin(engine("a")), "parrot")
    manager.register(EnginePlugin(engine("b")), "parrot")
    assert [spec.name for spec in manager.specs(ENGINES)] == ["a"]
    assert [status.state for status in manager.statuses] == ["loaded", "broken"]


@pytest.mark.parametrize(
    ("stated", "state"),
    [((1, 0), "loaded"), ((1, 7), "loaded"), ((2, 0), "incompatible"), (None, "incompatible"), ("1.0", "broken")],
)
def test_the_plugin_api_is_checked_by_its_major(stated: object, state: str) -> None:
    """Another major, or none stated, is recorded as incompatible and skipped."""
    plugin = SimpleNamespace() if stated is None else SimpleNamespace(CORRAL_PLUGIN_API=stated)
    manager = PluginManager()
    manager.register(plugin, "versioned")
    assert only_status(manager, "versioned")[0] == state


def test_an_engine_of_another_engine_api_is_refused() -> None:
    """The engine port has its own version."""
    manager = PluginManager()
    manager.register(EnginePlugin(engine("a", api_version=(2, 0))), "newer")
    assert "engine API 2.0" in only_status(manager, "newer")[1]


def test_block_and_allow_lists() -> None:
    """A blocked plugin is not even imported; an allow-list admits its members and the built-in plugin."""
    points = [
        EntryPoint("builtin", "corral.plugins.builtin", "corral"),
        EntryPoint("other", "corral_no_such_module", "corral"),
    ]
    blocked = PluginManager(block=["other"])
    blocked.load_entry_points(points)
    assert only_status(blocked, "other") == ("blocked", "listed in plugins.block")
    allowed = PluginManager(allow=["mine"])
    allowed.load_entry_points(points)
    assert only_status(allowed, "other") == ("blocked", "not listed in plugins.allow")
    assert only_status(allowed, "builtin")[0] == "loaded"
    both = PluginManager(allow=["builtin"], block=["builtin"])
    both.load_entry_points(points)
    assert only_status(both, "builtin")[0] == "blocked"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("corral.core.models.names", "invalid import path"),
        ("corral_no_such_module:thing", "cannot import"),
        ("corral.core.models.names:no_such_thing", "has no 'no_such_thing'"),
    ],
)
def test_a_bad_import_path_says_what_is_wrong(target: str, message: str) -> None:
    """`PluginError` names the path or what is missing in it."""
    with pytest.raises(PluginError, match=message):
        resolve(target)


def test_a_module_that_raises_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a plugin's module raises when imported for its spec becomes a `PluginError` with the same text."""
    (tmp_path / "corral_test_explodes.py").write_text("raise RuntimeError('no such luck')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match=r"corral_test_explodes.*no such luck"):
        resolve("corral_test_explodes:thing")


def test_a_registrar_wants_a_name() -> None:
    """An empty name could never be chosen."""
    register = Registrar(RUNNERS)
    with pytest.raises(PluginError, match="needs a name"):
        register(RunnerSpec(name="", target="a:b"))


class SourcePlugin:
    """Registers a source whose module does not exist."""

    CORRAL_PLUGIN_API = (1, 0)

    @hookimpl
    def corral_register_sources(self, register: Registrar[SourceSpec]) -> None:
        register(SourceSpec(name="floppy", target="no_such_module:Floppy"))


def test_an_adapter_that_cannot_be_made_is_left_out(tmp_path: Path) -> None:
    """A plugin whose source fails to import is recorded as broken with the reason, and everything else works."""
    manager = PluginManager()
    manager.load_entry_points([EntryPoint("builtin", "corral.plugins.builtin", "corral")])
    manager.register(SourcePlugin(), "floppy")
    layers = read_layers(environment={"OLLAMA_MODELS": str(tmp_path), "HOME": str(tmp_path)})

    async def main() -> None:
        assembly = await assemble(layers, manager=manager, default_runner="thread")
        try:
            assert await assembly.runtime.catalog.list() == []
            [status] = [status for status in assembly.runtime.plugins if status.name == "floppy"]
            assert status.state == "broken"
            assert "no_such_module" in status.reason
        finally:
            await assembly.runtime.aclose()

    asyncio.run(main())

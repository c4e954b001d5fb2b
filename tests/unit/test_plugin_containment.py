"""A plugin that misbehaves harms only itself: it is recorded with the reason, and the rest works."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from corral.adapters.system.installed_packages import InstalledPackages
from corral.core.containment import beside, contained, on_own_thread, short_line
from corral.core.errors import LoadFailed, NoEngine, PluginError, StorageError, UnknownEngine
from corral.core.generation.rendering import RenderingThreads
from corral.core.models.digests import digest_of
from corral.core.models.model import ModelMetadata, StoredModel, TemplateText
from corral.core.models.names import parse_name
from corral.core.ports.chat import ChatFormat, RenderedChat
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.outputs import Delta
from corral.core.requests.requests import ChatRequest
from corral.core.scheduling.engine_choice import EngineChooser
from corral.core.scheduling.load_options import fits
from corral.core.specs.engines import Derivation, EngineSpec, Match
from corral.core.specs.spec_calls import estimate_bytes
from corral.plugins import hookimpl
from corral.plugins.assembly import Assembly, assemble, try_out
from corral.plugins.guarded_parsers import GuardedParsers
from corral.plugins.guarded_parts import GuardedLanguage
from corral.plugins.hooks import ENGINES
from corral.plugins.manager import PluginManager
from corral.plugins.settings.reading import read_layers
from corral.plugins.testing.gguf import gguf_bytes

TOY = StoredModel(name=parse_name("toy"), digest=digest_of(b""), size_bytes=0, modified_at=0.0, format="gguf")

HEAD = """
import msgspec, sys, time
from corral.core.specs.engines import EngineSpec, Match
from corral.plugins import *
CORRAL_PLUGIN_API = (1, 0)
def engine(**fields):
    usual = dict(name="x", summary="s", form="generator", load="nowhere:load", estimate=lambda *_: {})
    return EngineSpec(**usual | dict(match=lambda *_: Match(score=0, reason="no")) | fields)
"""


def hook(kind: str, body: str) -> str:
    return f"{HEAD}\n@hookimpl\ndef corral_register_{kind}(register):\n{textwrap.indent(body, '    ')}\n"


# What is wrong with a plugin, and the reason that is recorded.
AT_ONCE = {
    "interrupts": (hook("engines", "raise KeyboardInterrupt"), "raised KeyboardInterrupt"),
    "bases": (hook("engines", "raise BaseException('boo')"), "raised BaseException: boo"),
    "exits": ("import sys; sys.exit(3)", "raised SystemExit: 3"),
    "metaclass": (
        "class M(type):\n    def __new__(*a): raise KeyboardInterrupt\nclass X(metaclass=M): pass",
        "raised Key",
    ),
    "subclass": ("class A:\n    def __init_subclass__(cls): raise SystemExit\nclass B(A): pass", "raised SystemExit"),
    "recurses": ("def f(): f()\nf()", "RecursionError"),
    "generates": (hook("engines", "yield 1"), "returned <generator"),
    "unprintable": (
        hook("engines", "class E:\n  def __repr__(self): raise SystemExit\nregister(E())"),
        "raised SystemExit",
    ),
    "nowhere": (None, "No module named 'corral_test_nowhere'"),
    "version": ("CORRAL_PLUGIN_API = ('x' * 10**6, 0)", "must be a pair of numbers"),
    "number": (hook("sources", "register(5)"), "source must be SourceSpec, not int: 5"),
    "options": (hook("engines", "register(engine(load_options=int))"), "load_options: expected a class of Struct"),
    "tasks": (hook("engines", "register(engine(tasks=3.5))"), "tasks: Expected `array`, got `float`"),
    "runners": (hook("engines", "register(engine(runners=('train',)))"), "runners: Invalid enum value"),
    "arguments": (
        hook("engines", "register(engine(match=lambda record, metadata: None))"),
        "match: expected a function of 3 arguments, got one of (record, metadata)",
    ),
    "uncallable": (hook("engines", "register(engine(match=3))"), "match: expected a function, got 3"),
    "path": (hook("engines", "register(engine(load='over there'))"), "load: invalid import path"),
    "escapes": (hook("engines", "register(engine(summary='\\x1b[31mred'))"), "summary: control characters"),
    "endless": (hook("engines", "register(engine(summary='x' * 10**6))"), "summary: a text of 1000000 characters"),
    "builtins": (HEAD + "import builtins\nbuiltins.open = None\ndel builtins.sum", "built-ins: open, sum"),
    "streams": (HEAD + "import sys\nsys.stdout = sys.stderr = None", "streams: stdout, stderr"),
    "paths": (HEAD + "import sys\nsys.path.clear()", "sys.path: "),
    "environment": (HEAD + "import os\nos.environ.clear()", "environment variables: "),
    "interpreter": (
        HEAD + "import os, sys, threading\nos.chdir('/')\nsys.setrecursionlimit(80)\nthreading.excepthook = None",
        "settings: threading.excepthook, the recursion limit, the current folder",
    ),
    "called": (hook("engines", "register(engine(name='n' * 10**6))"), "not a valid name"),
    "collides": (hook("engines", "register(engine(name='llama-cpp'))"), "already registered by the plugin 'builtin'"),
    "command": (hook("commands", "register(CommandSpec(name='list', target='a:b'))"), "command 'list' is already"),
    "required": (
        hook("sources", "class S(msgspec.Struct):\n  a: int\nregister(SourceSpec(name='s', target='a:b', settings=S))"),
        "settings: S cannot be created without values",
    ),
    "unresolved": (
        hook("engines", "class S(msgspec.Struct):\n  a: 'Nope' = 3\nregister(engine(load_options=S))"),
        "load_options: S cannot be created without values",
    ),
}
WHEN_MADE = {
    "factory": (
        hook("sources", "register(SourceSpec(name='s', target='{me}:make'))") + "make = sys.exit",
        "SystemExit",
    ),
    "five": (
        hook("sources", "register(SourceSpec(name='five', target='{me}:make'))") + "def make(): return 5",
        "the result of its factory is int 5, which does not implement fetch",
    ),
    "pypi": (
        hook("sources", "register(SourceSpec(name='q', target='{me}:Make'))")
        + "class Make:\n  scheme = 'pypi'\n  def resolve(self, *_): ...\n  def fetch(self, *_): ...",
        "its scheme is 'pypi', but it is registered as 'q'",
    ),
    "route": (
        hook("routes", "register(RouteSpec(name='r', target='{me}:R'))") + "R = 5",
        "is int 5 instead of a litestar",
    ),
    "click": (hook("commands", "register(CommandSpec(name='c', target='{me}:c'))") + "c = 5", "instead of a click"),
    "matches": (
        hook("engines", "register(engine(name='m', match=lambda *_: time.sleep(60)))"),
        "engine m: its match failed: it did not end within 0.5 s, and is not called again",
    ),
    "exits": (hook("engines", "register(engine(name='e', match=lambda *_: sys.exit(3)))"), "its match failed: raised"),
    "numbers": (hook("engines", "register(engine(name='n', match=lambda *_: 5))"), "5 instead of a Match"),
    "sleeps": (
        hook("runners", "register(RunnerSpec(name='r', target='{me}:make'))") + "def make(): time.sleep(60)",
        "runner r: did not end within 0.5 s",
    ),
}


def install(folder: Path, name: str, source: str | None) -> EntryPoint:
    """A plugin as pip would leave it, found by its entry point."""
    module = f"corral_test_{name}"
    if source is not None:
        (folder / f"{module}.py").write_text(source.replace("{me}", module))
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[corral]\n{name} = {module}\n")
    return EntryPoint(name, module, "corral")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to install plugins into; their modules are forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.startswith("corral_test_")]:
        del sys.modules[name]


def manage(folder: Path, plugins: Mapping[str, str | None], **how: Any) -> PluginManager:
    manager = PluginManager(limit_s=0.5, commands=("list",), **how)
    points = [install(folder, name, source) for name, source in plugins.items()]
    manager.load_entry_points([EntryPoint("builtin", "corral.plugins.builtin", "corral"), *points])
    return manager


def reason_of(manager: PluginManager, name: str) -> str:
    [status] = [status for status in manager.statuses if status.name == name]
    assert status.state == "broken", name
    assert status.reason.isprintable()
    assert len(status.reason) < 700
    return status.reason


def assembled(manager: PluginManager, folder: Path, use: Callable[[Assembly], Any] = lambda assembly: None) -> None:
    """Assembly succeeds and the store is listed in spite of them."""

    async def main() -> None:
        layers = read_layers("", environment={"OLLAMA_MODELS": str(folder / "models"), "HOME": str(folder)})
        assembly = await assemble(layers, manager=manager, default_runner="thread")
        try:
            assert await assembly.runtime.catalog.list() == []
            result = use(assembly)
            if asyncio.iscoroutine(result):
                await result
        finally:
            await assembly.aclose()

    asyncio.run(main())


def test_plugins_that_fail_when_they_are_loaded(modules: Path) -> None:
    """Each is recorded with its reason, whatever it raises or registers, and a sound one works."""
    before = (open, sys.stdout, os.getcwd(), dict(os.environ))
    sources = {name: source for name, (source, _) in AT_ONCE.items()}
    manager = manage(modules, sources | {"sound": hook("engines", "register(engine(name='sound'))")})
    for name, (_, reason) in AT_ONCE.items():
        assert reason in reason_of(manager, name)
    assert "sound" in [spec.name for spec in manager.specs(ENGINES)]
    assembled(manager, modules)
    assert (open, sys.stdout, os.getcwd(), dict(os.environ)) == before


def test_plugins_that_fail_when_something_is_made_of_them(modules: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The assembly leaves each out, with one line in the log; `corral plugins` finds out by making everything."""
    manager = manage(modules, {name: source for name, (source, _) in WHEN_MADE.items()})
    assert manager.left_out == {}
    assembled(manager, modules, lambda assembly: assembly.routers())
    later = ("click", "matches", "exits", "numbers")  # a command is imported, and a match asked, when it is needed
    made = [name for name in WHEN_MADE if name not in later]
    for name in made:
        assert WHEN_MADE[name][1] in reason_of(manager, name)
        assert len([one for one in caplog.records if f"the plugin {name} is broken" in one.getMessage()]) == 1
    tried = PluginManager(limit_s=0.5)
    tried.load_entry_points([EntryPoint(name, f"corral_test_{name}", "corral") for name in WHEN_MADE])
    try_out(tried, read_layers("", environment={}).decode())
    for name, (_, reason) in WHEN_MADE.items():
        assert reason in reason_of(tried, name)


def test_an_import_that_never_ends(modules: Path) -> None:
    """It is abandoned after the limit and named, even if it is busy computing; a second attempt does not wait for it
    again.
    """
    never = {"waits": "import time\ntime.sleep(60)", "spins": "while True: pass"}
    manager = manage(modules, never)
    points = [EntryPoint(name, f"corral_test_{name}", "corral") for name in never]
    again = PluginManager(limit_s=30)
    began = time.monotonic()
    again.load_entry_points(points)
    assert time.monotonic() - began < 15
    for name in never:
        assert "did not end within 0.5 s" in reason_of(manager, name)
        assert reason_of(again, name) == reason_of(manager, name)


def test_functions_of_a_spec_that_never_return(modules: Path) -> None:
    """Each is abandoned once and costs no time afterwards; another engine is chosen, and a load fails."""
    hang = "never = lambda *_: time.sleep(60)\n"
    fields = "load_options=Options, match=lambda *_: Match(score=1, reason='yes'), estimate=never, fits=never"
    options = "class Options(msgspec.Struct):\n    size: int = 0\n"
    bad = "register(engine(name='a', match=never))\nregister(engine(name='b', " + fields + "))"
    manager = manage(modules, {"hangs": hook("engines", bad) + hang + options})
    engines = [one for one in manager.specs(ENGINES) if one.name in ("a", "b")]
    chooser = EngineChooser(engines, installation=InstalledPackages())
    began = time.monotonic()
    for _ in range(20):
        candidate = chooser.choose(TOY, None)
        assert candidate.spec.name == "b"
        with pytest.raises(LoadFailed, match=r"estimate for toy:latest failed: .*did not end within 0\.5 s"):
            estimate_bytes(candidate.spec, TOY, None, None)
        assert not fits(candidate.spec, 1, 2)
    assert time.monotonic() - began < 20  # sixty calls; each that waits takes half a second


def test_what_a_plugin_prints_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """It cannot flood or control a terminal, nor close the stream."""

    def work() -> None:
        print("\x1b[31mred")
        print("x" * 1_000_000)
        sys.stdout.close()
        print("more")

    on_own_thread(work, limit_s=None)
    print("the command's own")
    out, err = capsys.readouterr()
    assert out == "the command's own\n"
    assert err.startswith("\\x1b[31mred\nxxx")
    assert len(err) < 70_000
    assert err.endswith("(what a plugin prints beyond this is dropped)\n")


def test_readers_templates_and_dialects_that_fail(modules: Path, tmp_path: Path) -> None:
    """They are called for every model: an error in them counts as "no", and never breaks a list."""
    source = (
        hook("metadata_readers", "register(MetadataReaderSpec(name='r', target='{me}:Bad'))")
        + "@hookimpl\ndef corral_register_manifest_formats(register):\n"
        + "    register(ManifestFormatSpec(name='f', target='{me}:Bad'))\n"
        + "@hookimpl\ndef corral_register_chat_languages(register):\n"
        + "    register(ChatLanguageSpec(name='t', target='{me}:Bad'))\n"
        + "def bad(*_, **__): sys.exit(9)\n"
        + "class Bad:\n    format = name = 'bad'\n"
        + "".join(f"    {name} = bad\n" for name in ("recognises", "read", "describe", "tensors", "blobs", "write"))
        + "    compile = bad\n"
    )
    manager = manage(modules, {"asked": source})
    file = tmp_path / "toy.gguf"
    file.write_bytes(gguf_bytes())

    async def use(assembly: Assembly) -> None:
        runtime = assembly.runtime
        await runtime.catalog.import_file(file, parse_name("toy"), lambda progress: None)
        [record] = await runtime.catalog.list()
        assert (await runtime.catalog.metadata(record)) is not None
        (tmp_path / "other.bin").write_bytes(b"no model")
        with pytest.raises(Exception, match="not a model file"):
            await runtime.catalog.import_file(tmp_path / "other.bin", None, lambda progress: None)

    assembled(manager, modules, use)


@pytest.mark.parametrize("method", ["blobs", "read"])
@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("raise KeyError('whoops')", "the plugin cards, card: {method}: KeyError: 'whoops'"),
        ("raise InvalidDigest('no digest')", "the plugin cards, card: {method}: InvalidDigest: no digest"),
        ("sys.exit(9)", "the plugin cards, card: {method}: raised SystemExit: 9"),
        ("return 7", "the plugin cards, card: {method}: TypeError: it returned 7"),
        ("raise StorageError('torn')", "torn"),
    ],
    ids=["raises", "corral's", "exits", "mistyped", "torn"],
)
def test_a_manifest_that_its_format_fails_to_read(modules: Path, method: str, body: str, complaint: str) -> None:
    """The error names the model and the plugin, and the model can be deleted."""
    source = hook("manifest_formats", "register(ManifestFormatSpec(name='card', target='{me}:Cards'))") + (
        "def fail(*_):\n"
        f"    {body}\n"
        "class Cards:\n    name = 'card'\n"
        "    def recognises(self, manifest):\n        return manifest == b'card'\n"
        "    def blobs(self, manifest):\n        return ()\n"
        "    def read(self, manifest, texts):\n        return Model(format='card')\n"
        "    def write(self, name, model):\n        raise Unsupported('cards are only read')\n"
        f"    {method} = fail\n"
    )
    manager = manage(modules, {"cards": source.replace("{me}", "corral_test_cards")})
    manifest = modules / "models/manifests/registry.ollama.ai/library/toy/latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_bytes(b"card")

    async def use(assembly: Assembly) -> None:
        catalog = assembly.runtime.catalog
        with pytest.raises((PluginError, StorageError)) as caught:
            await catalog.get(TOY.name)
        assert "'toy" in str(caught.value)
        assert complaint.replace("{method}", method) in str(caught.value)
        assert await catalog.list() == []
        assert await catalog.delete(TOY.name) is None
        assert not manifest.exists()

    assembled(manager, modules, use)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("raise KeyError('whoops')", r"the plugin shelf, bad: manifest: KeyError: 'whoops'"),
        ("return 7", r"bad: manifest: TypeError: it returned 7 instead of RemoteManifest"),
        ("sys.exit(9)", r"bad: manifest: raised SystemExit"),
        (
            "return RemoteManifest(data=data, media_type='m')",
            r"bad: fetch: TypeError: it returned 'text' instead of bytes",
        ),
    ],
)
def test_a_registry_that_fails(modules: Path, body: str, complaint: str) -> None:
    """What a plugin's registry raises, or gives instead of what its port promises, is an error that names it."""
    digest = digest_of(b"config")
    config = f'{{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"{digest}","size":6}}'
    layer = config.replace("docker.container.image.v1+json", "ollama.image.system")
    manifest = f'{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}'
    source = hook("registries", "register(RegistrySpec(name='bad', target='{me}:Bad'))") + (
        f"data = {manifest.encode()!r}\n"
        "class Bad:\n    schemes = ('bad',)\n"
        f"    async def manifest(self, reference):\n        {body}\n"
        "    async def fetch(self, reference, blob, start=0, end=None):\n        yield 'text'\n"
        "    mount = begin = put = aclose = manifest\n"
    )
    manager = manage(modules, {"shelf": source.replace("{me}", "corral_test_shelf")})

    async def use(assembly: Assembly) -> None:
        with pytest.raises(PluginError, match=complaint):
            await assembly.runtime.catalog.pull("bad://m")
        assert await assembly.runtime.catalog.list() == []

    assembled(manager, modules, use)


@pytest.mark.parametrize(
    ("begin", "complaint"),
    [
        ("return None", r"the plugin shelf, bad: begin: TypeError: it returned None instead of a RemoteWriter"),
        ("return self", r"the plugin shelf, bad: write: KeyError: 'whoops'"),
    ],
)
def test_a_registry_that_fails_while_it_is_written(modules: Path, tmp_path: Path, begin: str, complaint: str) -> None:
    """What goes wrong while a blob is pushed is an error that names the plugin too."""
    source = hook("registries", "register(RegistrySpec(name='bad', target='{me}:Bad'))") + (
        "class Bad:\n    schemes = ('bad',)\n"
        "    async def mount(self, reference, blob, source):\n        return False\n"
        f"    async def begin(self, reference, blob, size_bytes):\n        {begin}\n"
        "    async def write(self, data):\n        raise KeyError('whoops')\n"
        "    async def abort(self):\n        raise OSError('gone')\n    commit = abort\n"
        "    manifest = fetch = put = mount\n"
        "    async def aclose(self):\n        pass\n"
    )
    manager = manage(modules, {"shelf": source.replace("{me}", "corral_test_shelf")})
    file = tmp_path / "toy.gguf"
    file.write_bytes(gguf_bytes())

    async def use(assembly: Assembly) -> None:
        await assembly.runtime.catalog.import_file(file, parse_name("toy"), lambda progress: None)
        with pytest.raises(PluginError, match=complaint):
            await assembly.runtime.catalog.push(parse_name("toy"), "bad://m")

    assembled(manager, modules, use)


def test_a_hidden_distribution(modules: Path) -> None:
    """Unreadable metadata does not hide other plugins, and is recorded under the distribution's name."""
    install(modules, "beside", hook("engines", "register(engine(name='beside'))"))
    bad = modules / "corral_bad-1.0.dist-info"
    bad.mkdir()
    (bad / "METADATA").write_text("Metadata-Version: 2.1\nName: corral-bad\nVersion: 1.0\n")
    (bad / "entry_points.txt").write_text("[corral]\nno equals sign\n")
    manager = PluginManager()
    manager.load_entry_points()
    assert "metadata cannot be read" in reason_of(manager, "corral-bad")
    assert {"beside", "llama-cpp"} <= {spec.name for spec in manager.specs(ENGINES)}


def test_the_command_line_goes_on(modules: Path, user_at: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    """What a plugin prints is not in the output of ``--json``; a command that a missing plugin would serve names it."""
    install(modules, "chatty", "print('from import')\n" + hook("engines", "print('from hook')"))
    install(modules, "exits", "import sys; sys.exit(3)")

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "corral.api.cli", *words],
            env=user_at(tmp_path, PYTHONPATH=str(modules)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    listed = call("list", "--json")
    assert json.loads(listed.stdout) == []
    assert "from import" in listed.stderr
    assert listed.stderr.count("the plugin exits is broken: raised SystemExit: 3") == 1
    shown = {plugin["name"]: plugin["state"] for plugin in json.loads(call("plugins", "--json").stdout)}
    assert shown == {"builtin": "loaded", "chatty": "loaded", "exits": "broken"}
    for words in (("run", "toy", "hello", "--engine", "exits"), ("pull", "exits://x"), ("exits",)):
        refused = call(*words)
        assert refused.returncode in (1, 2)
        said = refused.stderr[refused.stderr.index("Error:") :]
        assert "the plugin exits is broken: raised SystemExit: 3" in said


@pytest.mark.skipif(os.name != "posix", reason="signals are sent to processes on POSIX only")
def test_ctrl_c_still_ends_a_command(modules: Path, user_at: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    """Ctrl-C ends the command at once, even while a plugin is being imported."""
    marker = tmp_path / "began"
    install(modules, "waits", f"import time\nopen({str(marker)!r}, 'w').close()\ntime.sleep(60)")
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from corral.api.cli.command_group import main; main()"
    )
    for words in (("list",), ("config",)):
        marker.unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", program, "--set", "plugins.load_timeout=60", *words],
            env=user_at(tmp_path, PYTHONPATH=str(modules)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 20
            while not marker.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        finally:
            process.kill()
            process.wait()


def spec(**fields: Any) -> EngineSpec:
    usual: dict[str, Any] = {
        "name": "odd",
        "summary": "",
        "form": "generator",
        "load": "nowhere:load",
        "match": lambda *_: Match(score=1, reason="any"),
        "estimate": lambda record, metadata, options: {"cpu": 1},
    }
    return EngineSpec(**usual | fields)


def raising(fault: BaseException) -> Callable[..., Any]:
    def function(*_: Any) -> Any:
        raise fault

    return function


@pytest.mark.parametrize(
    ("match", "said"),
    [
        (raising(KeyboardInterrupt()), "raised KeyboardInterrupt"),
        (raising(SystemExit(2)), "raised SystemExit: 2"),
        (raising(asyncio.CancelledError()), "raised CancelledError"),
        (lambda *_: "nonsense", "'nonsense' instead of a Match"),
        (lambda *_: Match(score=float("nan"), reason=""), "score is nan"),  # type: ignore[arg-type]
        (lambda *_: Match(score="100", reason=""), "score is '100'"),  # type: ignore[arg-type]
        (lambda *_: Match(score=1, reason="", derive="press"), "derive is 'press'"),  # type: ignore[arg-type]
        (lambda *_: Match(score=1, reason="", derive=Derivation(converter=3)), "converter is 3"),  # type: ignore[arg-type]
        (lambda: None, "TypeError"),
    ],
)
@pytest.mark.parametrize("thread", [False, True])
def test_a_match_that_is_none(
    match: Callable[..., Any], said: str, thread: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine is skipped for the model, with the reason; others run it; the log has one line, not one per model."""
    chooser = EngineChooser([spec(name="bad", match=match), spec(name="sound")], installation=InstalledPackages())

    def choose() -> None:
        for _ in range(3):
            assert chooser.choose(TOY, None).spec.name == "sound"
        with pytest.raises(NoEngine, match="its match failed") as caught:
            chooser.choose(TOY, None, "bad")
        assert said in caught.value.message

    if thread:
        ended: list[bool] = []

        def work() -> None:
            choose()
            ended.append(True)

        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
        assert ended
    else:
        choose()
    assert len([record for record in caplog.records if "match failed" in record.getMessage()]) == 1


@pytest.mark.parametrize(
    "estimate",
    [
        raising(KeyboardInterrupt()),
        raising(SystemExit()),
        raising(ZeroDivisionError()),
        lambda *_: None,
        lambda *_: 3,
        lambda *_: {"cpu": float("nan")},
        lambda *_: {"cpu": "much"},
        lambda *_: {"cpu": -1},
        lambda *_: {"cpu": 10**40},
        lambda *_: {3: 1},
    ],
)
def test_an_estimate_that_is_none(estimate: Callable[..., Any]) -> None:
    """The load fails and names the engine: an unknown size does not count as zero."""
    with pytest.raises(LoadFailed, match="the odd engine's estimate for toy:latest failed"):
        estimate_bytes(spec(estimate=estimate), TOY, None, None)
    assert estimate_bytes(spec(), TOY, None, None) == {"cpu": 1}


def test_a_fits_that_raises() -> None:
    """It costs another load."""
    for fault in (KeyboardInterrupt(), SystemExit(), ValueError()):
        assert not fits(spec(fits=raising(fault)), 1, 2)


def test_what_is_missing_names_the_plugin_that_is_not_there() -> None:
    """Only the plugin of that name; otherwise a few, and where to see the rest."""
    left_out = {name: f"the plugin {name} is broken" for name in ("steam", "a", "b", "c", "d")}
    chooser = EngineChooser([spec()], left_out=left_out, installation=InstalledPackages())
    with pytest.raises(UnknownEngine) as named:
        chooser.choose(TOY, None, "steam")
    assert named.value.remedy == "the plugin steam is broken; known engines: odd"
    with pytest.raises(UnknownEngine) as unnamed:
        chooser.choose(TOY, None, "coal")
    assert str(unnamed.value.remedy).startswith(
        "the plugin steam is broken; the plugin a is broken; the plugin b is broken"
    )
    assert "corral plugins shows 2 more" in str(unnamed.value.remedy)


def test_printing_is_diverted_for_the_plugin_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Other threads keep writing to the output meanwhile."""
    told, seen = threading.Event(), threading.Event()

    def work() -> None:
        print("plugin")
        told.set()
        seen.wait(10)

    worker = threading.Thread(target=on_own_thread, args=(work,), kwargs={"limit_s": 10})
    worker.start()
    told.wait(10)
    print("program")
    seen.set()
    worker.join()
    print("afterwards")
    assert capsys.readouterr() == ("program\nafterwards\n", "plugin\n")


def test_what_contained_lets_out() -> None:
    """Values and exceptions pass unchanged; nothing that ends a thread does."""
    assert contained(lambda one: one + 1, 1) == 2
    with pytest.raises(KeyError):
        contained(raising(KeyError()))
    with pytest.raises(PluginError, match="raised GeneratorExit"):
        contained(raising(GeneratorExit()))
    with pytest.raises(PluginError, match="raised SystemExit"):
        asyncio.run(beside(raising(SystemExit())))
    assert short_line("a\x1b[2J\nb" + "c" * 1000, 8) == r"a\x1b[2J bc… (1007 characters)"


def test_a_module_is_a_plugin_of_its_own_name(modules: Path) -> None:
    """A plugin object that is passed in is contained like an installed one."""
    plugin = ModuleType("parrot")
    plugin.CORRAL_PLUGIN_API = (1, 0)  # type: ignore[attr-defined]

    @hookimpl
    def corral_register_engines(register: Any) -> None:
        raise KeyboardInterrupt

    plugin.corral_register_engines = corral_register_engines  # type: ignore[attr-defined]
    manager = PluginManager()
    manager.register(plugin, "parrot")
    assert reason_of(manager, "parrot") == "raised KeyboardInterrupt"


def test_a_format_whose_attributes_raise_harms_only_its_model() -> None:
    class Raising:
        @property
        def interruptible(self) -> bool:
            raise SystemExit(3)

        def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
            return RenderedChat(prompt=())

    class Language:
        def compile(self, text: TemplateText, metadata: ModelMetadata | None) -> ChatFormat:
            return Raising()

    async def scenario() -> None:
        threads = RenderingThreads()
        guarded = GuardedLanguage(Language(), "plugin p")
        try:
            with pytest.raises(PluginError, match="plugin p: interruptible: raised SystemExit"):
                threads.format(guarded.compile(TemplateText(kind="k", text="t"), None))
        finally:
            threads.close()

    asyncio.run(scenario())


def test_a_parser_without_end_fails_its_answer() -> None:
    class Endless:
        def open(self, request: ChatRequest, rendered: RenderedChat) -> Endless:
            return self

        def feed(self, delta: Delta) -> Iterator[Delta]:
            return itertools.repeat(delta)

        def finish(self) -> tuple[Delta, ...]:
            return ()

    parser = GuardedParsers(Endless(), "plugin p").open(ChatRequest(messages=()), RenderedChat(prompt=()))
    with pytest.raises(PluginError, match="more than 10000 deltas"):
        parser.feed(Delta(text="x"))

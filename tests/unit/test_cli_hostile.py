"""How the command line prints untrusted text from files and errors."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes

Corral = Callable[..., "subprocess.CompletedProcess[str]"]
EVIL = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egpj\r"
_RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


@pytest.fixture
def corral(tmp_path: Path, user_at: Callable[..., dict[str, str]], run_corral: Corral) -> Corral:
    environment = user_at(tmp_path)
    return lambda *arguments, **more: run_corral(environment | more, *arguments)


@pytest.fixture
def corral_here(tmp_path: Path, user_at: Callable[..., dict[str, str]], call_corral: Corral) -> Corral:
    """The same, in this process."""
    environment = user_at(tmp_path)
    return lambda *arguments, **more: call_corral(environment | more, *arguments)


def on_terminal(environment: dict[str, str], *arguments: str) -> str:
    """The bytes that are sent to a terminal."""
    import pty

    sent = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 4096)
        sent.extend(data)
        return data

    command = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), "corral", *arguments]
    null = os.open(os.devnull, os.O_WRONLY)
    stdout = os.dup(1)
    os.dup2(null, 1)  # where pty copies to
    try:
        pty.spawn(command, read, lambda descriptor: b"")
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(null)
    return sent.decode().replace("\r\n", "\n")


def test_headers_and_templates_show_their_escapes(
    corral_here: Corral, tmp_path: Path, user_at: Callable[..., dict[str, str]]
) -> None:
    """No escape sequence of a GGUF header reaches a terminal; a template that goes to a file is unchanged."""
    file = tmp_path / f"{EVIL.replace('/', '')}small.gguf"
    keys = {**SMALL_MODEL, "general.architecture": "llama", f"evil.{EVIL}": EVIL, "general.license": EVIL}
    file.write_bytes(gguf_bytes(keys | {"tokenizer.chat_template": f"{EVIL}{{{{ messages }}}}"}))
    imported = corral_here("import", str(file), "--name", "evil")
    assert imported.returncode == 0, imported.stderr
    for arguments in (("show", "evil"), ("show", "evil", "--verbose"), ("show", "evil", "--json"), ("list",)):
        shown = corral_here(*arguments)
        assert shown.returncode == 0, shown.stderr
        assert not _RAW.search(shown.stdout + shown.stderr), arguments
    assert json.loads(corral_here("show", "evil", "--json").stdout)["model_info"][f"evil.{EVIL}"] == EVIL
    assert corral_here("show", "evil", "--template").stdout == f"{EVIL}{{{{ messages }}}}\n".replace("\r", "\n")
    for part in ("--template", "--modelfile"):
        shown_at_terminal = on_terminal(user_at(tmp_path), "show", "evil", part)
        assert shown_at_terminal
        assert part == "--modelfile" or r"\x1b]0;title" in shown_at_terminal
        assert not _RAW.search(shown_at_terminal)


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", EVIL),
        ("run", EVIL, "hello"),
        ("run", f"./{EVIL}", "hello"),
        ("import", EVIL),
        ("pull", f"{EVIL}://x"),
        (EVIL,),
        ("--set", f"{EVIL}=1", "list"),
        ("--config", EVIL, "list"),
        ("run", "m", "hello", "-o", f"{EVIL}=1"),
        ("run", "m", "hello", "--format", EVIL),
        ("serve", "--host", EVIL),
        ("show", "--" + EVIL),
        ("upstream", "m", f"http://127.0.0.1:9/{EVIL}"),
    ],
)
def test_errors_show_the_escapes_of_what_they_quote(corral_here: Corral, arguments: tuple[str, ...]) -> None:
    """The name is escaped wherever it is quoted."""
    ended = corral_here(*arguments)
    assert ended.returncode in (1, 2)
    assert ended.stderr
    assert not _RAW.search(ended.stdout + ended.stderr)
    assert "Traceback" not in ended.stderr


def test_a_path_that_is_no_text(corral: Corral, tmp_path: Path) -> None:
    """A path with bytes that are not UTF-8 is shown, without a traceback."""
    for arguments in (("import", os.fsdecode(b"/no\xff")), ("run", os.fsdecode(b"./no\xff"), "hello")):
        ended = corral(*arguments)
        assert ended.returncode == 1
        assert "no\\udcff" in ended.stderr
    ended = corral("config", "--json", CORRAL_CONFIG="", CORRAL_MODELS=os.fsdecode(b"/no\xff"))
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ("--system", "--json"),
        ("--modelfile", "--verbose"),
        ("--parameters", "--modelfile", "--json"),
    ],
)
def test_flags_of_show_that_exclude_each_other(corral_here: Corral, flags: tuple[str, ...]) -> None:
    """Such values are usage errors that name them, before the model is looked for."""
    ended = corral_here("show", "absent", *flags)
    assert ended.returncode == 2
    assert "exclude each other" in ended.stderr
    assert all(flag in ended.stderr for flag in flags)


def test_show_prints_one_part(corral_here: Corral) -> None:
    """Several flags for a part are an error with Ollama's text."""
    ended = corral_here("show", "absent", "--license", "--template")
    assert ended.returncode == 2
    names = "'--license', '--modelfile', '--parameters', '--system', or '--template'"
    assert f"only one of {names} can be specified" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--port", "70000"),
        ("serve", "--host", "unix:x", "--port", "1"),
        ("serve", "--host", "127.0.0.1:1", "--port", "2"),
        ("serve", "--host", "a b"),
        ("serve", "--host", "127.0.0.1:none"),
        ("serve", "--runner", "sidewalk"),
        ("serve", "--engine", "quartz"),
        ("serve", "--log-level", "loud"),
        ("--set", "nothing", "list"),
        ("--set", "nosuch.thing=1", "list"),
        ("--set", "engines.nosuch.thing=1", "list"),
        ("--set", "scheduler.keep_alive=soon", "list"),
        ("--set", "scheduler.max_queue=0", "list"),
        ("--set", "scheduler.engine=quartz", "list"),
        ("--set", "log.level=loud", "config"),
        ("--set", "store=cellar", "list"),
        ("--config", "/absent.toml", "config"),
        ("import", "x.gguf", "--name", "a b"),
        ("pull", "pypi://x", "--name", ":"),
        ("upstream", "m", "http://127.0.0.1:9", "--api", "morse"),
        ("upstream", "m", "http://127.0.0.1:9", "--capability", "vison"),
        ("upstream", "a b", "http://127.0.0.1:9"),
        ("rm", "a b"),
        ("cp", "a", "b c"),
        ("stop", "a b"),
        ("completion", "tcsh"),
        ("new-plugin", "../x"),
        ("run", "m", "\udcff"),
    ],
)
def test_wrong_values_are_wrong_usage(corral_here: Corral, arguments: tuple[str, ...]) -> None:
    """For every option and every name: status 2, and nothing was done."""
    ended = corral_here(*arguments)
    assert ended.returncode == 2, ended.stderr
    assert "Error: " in ended.stderr
    assert ended.stdout == ""

"""Upstream models in the store, in the library, in the scheduler and on the command line."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from corral import AsyncCorral, Corral
from corral.adapters.engines.upstream.spec import SPEC
from corral.api.cli import main
from corral.core.catalog.catalog import ModelCatalog
from corral.core.errors import InvalidRequest, ModelNotFound, Unsupported, UpstreamError
from corral.core.models.model import RemoteModel, StoredModel
from corral.core.models.names import parse_name
from corral.core.requests.calls import ChatCall, GenerateCall
from corral.core.requests.messages import Message, Tool
from corral.core.wording.pip_lines import install_line
from corral.plugins.testing.gguf import gguf_bytes
from corral.plugins.testing.scripted_server import ScriptedReply, ScriptedServer

CHAT = "/v1/chat/completions"
MODELS = {"data": [{"id": "org/big", "owned_by": "vllm", "max_model_len": 512}]}


def spoken(**delta: Any) -> bytes:
    chunk = {"choices": [{"delta": delta, "finish_reason": None}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@pytest.fixture
def vllm(upstream: ScriptedServer) -> ScriptedServer:
    """A server with one model, which thinks before it speaks."""
    upstream.replies |= {
        "/v1/models": ScriptedReply(body=MODELS),
        CHAT: ScriptedReply(pieces=[spoken(reasoning_content="Hm."), spoken(content="Hello"), END]),
    }
    return upstream


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Corral]:
    (tmp_path / "near.gguf").write_bytes(gguf_bytes())
    with Corral(models=tmp_path / "store", config="", engine="fake") as corral:
        corral.import_model(tmp_path / "near.gguf", name="near")
        yield corral


def add(corral: Corral, name: str, *hosts: str, **how: Any) -> StoredModel:
    catalog: ModelCatalog = corral.runtime().catalog
    return corral.call(lambda _: catalog.add_upstream(parse_name(name), hosts, **how))


def test_the_manifest(library: Corral, vllm: ScriptedServer, another_upstream: ScriptedServer, tmp_path: Path) -> None:
    """It is Ollama's format, without layers; Corral's own fields are under a separate key, and are read back."""
    another_upstream.replies = dict(vllm.replies)
    record = add(library, "far", f"{vllm.url}/v1/", another_upstream.url, vllm.url, api="vllm")
    assert record.remote == RemoteModel(host=vllm.url, model="org/big", replicas=(another_upstream.url,), api="vllm")
    assert (record.weights, record.context_length, record.capabilities) == (None, 512, ("completion",))
    manifest = json.loads((tmp_path / "store/manifests/registry.ollama.ai/library/far/latest").read_bytes())
    assert manifest["layers"] == []
    blob = tmp_path / "store" / "blobs" / manifest["config"]["digest"].replace(":", "-")
    config = json.loads(blob.read_bytes())
    assert (config["remote_host"], config["remote_model"]) == (vllm.url, "org/big")
    assert config["corral"] == {"remote_replicas": [another_upstream.url], "remote_api": "vllm"}
    library.delete("far")
    assert not blob.exists()


def test_what_a_replica_lacks(library: Corral, vllm: ScriptedServer, another_upstream: ScriptedServer) -> None:
    """An address with a different model is not a replica: nothing is stored."""
    another_upstream.replies["/v1/models"] = ScriptedReply(body={"data": [{"id": "small"}]})
    with pytest.raises(UpstreamError, match="has no model 'org/big'"):
        add(library, "far", vllm.url, another_upstream.url)
    with pytest.raises(ModelNotFound):
        library.show("far")


def test_no_address(library: Corral) -> None:
    """There is no server to ask."""
    with pytest.raises(InvalidRequest, match="no server address was given"):
        add(library, "far")


def test_the_library(library: Corral, vllm: ScriptedServer) -> None:
    """Text is the visible answer; thinking is separate, in chats and plain answers alike."""
    add(library, "far", vllm.url)
    answer = library.chat("far", "Hi", options={"num_predict": 5})
    assert (answer.text, answer.message.thinking, answer.engine) == ("Hello", "Hm.", "upstream")
    assert library.generate("far", "Hi", system="Be brief.").text == "Hello"
    assert vllm.bodies(CHAT)[1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    with library.generate("far", "Hi", stream=True) as stream:
        chunks = list(stream)
    assert ("".join(chunk.text for chunk in chunks), "".join(chunk.thinking for chunk in chunks)) == ("Hello", "Hm.")
    assert library.unload("far") is True
    assert library.loaded() == []


def test_no_room_and_no_timer(tmp_path: Path, vllm: ScriptedServer) -> None:
    """An upstream does not count among loaded models, evicts none of them, and stays until it is unloaded."""
    (tmp_path / "near.gguf").write_bytes(gguf_bytes())

    async def check() -> None:
        settings = {"scheduler.max_loaded_models": 1, "scheduler.keep_alive": "1h"}
        async with AsyncCorral(models=tmp_path / "store", config="", engine="fake", settings=settings) as corral:
            for name in ("near", "other"):
                await corral.import_model(tmp_path / "near.gguf", name=name)
            runtime = await corral.runtime()
            await runtime.catalog.add_upstream(parse_name("far"), [vllm.url])
            await runtime.catalog.add_upstream(parse_name("far2"), [vllm.url], api="openai")
            await corral.load("near")
            await corral.load("far", keep_alive=0)
            await corral.load("far2", keep_alive="1s")
            loaded = {model.record.name.model: model for model in await corral.loaded()}
            assert loaded.keys() == {"near", "far", "far2"}
            assert loaded["far"].expires_at is loaded["far2"].expires_at is None
            assert (loaded["far"].runner, dict(loaded["far"].info.memory_bytes)) == ("event_loop", {})
            await corral.copy("far", "alias")
            await corral.chat("alias", "Hi")
            assert len(await corral.loaded()) == 3
            await corral.delete("far2")
            assert {model.record.name.model for model in await corral.loaded()} == {"near", "far"}

    asyncio.run(check())


def test_tools_of_a_model_that_has_none(library: Corral) -> None:
    """They are refused before anything is loaded."""
    inference = library.runtime().inference
    messages = (Message(role="user", content="?"),)
    with pytest.raises(Unsupported, match=r"^registry\.ollama\.ai/library/near:latest does not support tools$"):
        library.call(lambda _: inference.chat(ChatCall(model="near", messages=messages, tools=(Tool(name="t"),))))
    with pytest.raises(Unsupported, match='"near" does not support thinking'):
        library.call(lambda _: inference.generate(GenerateCall(model="near", prompt="?", think=True)))
    assert library.loaded() == []


# ── The command line ──────────────────────────────────────────────────────────────────────────────────────────────


class Ended(NamedTuple):
    status: object
    out: str
    err: str


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., Ended]:
    """Calls ``corral`` in this process, with its own store and settings, and no server."""
    environment = {
        "CORRAL_MODELS": str(tmp_path / "store"),
        "CORRAL_HOST": f"unix:{tmp_path / 'no.sock'}",
        "CORRAL_CONFIG": None,
        **{f"XDG_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")},
    }

    def call(*arguments: str) -> Ended:
        with CliRunner().isolation(env=environment) as (out, err, _):
            status: object = 0
            try:
                main(arguments)
            except SystemExit as end:
                status = end.code
            return Ended(status, out.getvalue().decode(), err.getvalue().decode())

    return call


def test_the_command(call: Callable[..., Ended], vllm: ScriptedServer) -> None:
    """It prints what it created, and every other command accepts that like any model."""
    added = call("upstream", "far", vllm.url, "--capability", "completion", "--capability", "thinking")
    assert added == (0, f"added far:latest: org/big at {vllm.url}\n", "")
    shown = " ".join(call("show", "far").out.split())
    for text in ("Remote model org/big", f"Remote URL {vllm.url}", "thinking", "upstream"):
        assert text in shown
    assert [line.split()[0:3:2] for line in call("list").out.splitlines()[1:]] == [["far:latest", "-"]]
    assert call("run", "far", "Hi") == (0, "Thinking...\nHm.\n...done thinking.\n\nHello\n", "")
    assert call("run", "far", "Hi", "--hidethinking") == (0, "Hello\n", "")
    assert call("upstream", "far", vllm.url).err.startswith("replaced the model that was called far:latest (ID ")
    assert call("upstream", "far", vllm.url).err == ""
    assert call("cp", "far", "copy").status == 0
    assert call("rm", "far", "copy").status == 0
    assert call("list").out.splitlines()[1:] == []


def test_the_command_s_complaints(call: Callable[..., Ended], vllm: ScriptedServer) -> None:
    """They name the fault and the remedy; what the command line alone shows to be wrong is a usage error."""
    for arguments, status, text in (
        (("far", "http://127.0.0.1:9"), 1, "no server answers at http://127.0.0.1:9"),
        (("far", vllm.url, "--model", "none"), 1, "choose one with --model: org/big"),
        (("far", vllm.url, "--api", "soap"), 2, "'soap' is not one of 'openai', 'vllm'"),
        (("far", "http://me:sesame@h"), 1, "contains a user name or a key"),
        (("f@r", vllm.url), 2, "invalid model name"),
    ):
        ended = call("upstream", *arguments)
        assert ended.status == status
        assert text in ended.err
        assert "sesame" not in ended.err


def test_keys_from_the_settings(call: Callable[..., Ended], vllm: ScriptedServer, tmp_path: Path) -> None:
    """They are sent with lookups and with requests, and ``corral config`` does not print them."""
    (tmp_path / "config" / "corral").mkdir(parents=True)
    (tmp_path / "config" / "corral" / "config.toml").write_text(
        f'[engines.upstream.hosts."{vllm.url}"]\nkey = "open-sesame"\nheaders = {{ "X-Key" = "open-barley" }}\n'
    )
    assert call("upstream", "far", vllm.url).status == 0
    assert call("run", "far", "Hi", "--hidethinking").out == "Hello\n"
    assert {asked.headers["authorization"] for asked in vllm.asked} == {"Bearer open-sesame"}
    for arguments in (("config",), ("config", "--json"), ("engines", "--json"), ("show", "far", "--json")):
        shown = call(*arguments)
        assert shown.status == 0
        assert not re.search("sesame|barley", shown.out + shown.err)
    assert "***" in call("config").out


def test_keys_in_a_table_that_is_one_value(call: Callable[..., Ended]) -> None:
    """``corral config`` does not print keys of hosts that a flag set all at once."""
    table = '{"http://far:8000" = {key = "open-sesame", headers = {"X-Key" = "open-barley"}}}'
    for arguments in (("config",), ("config", "--json")):
        shown = call("--set", f"engines.upstream.hosts={table}", *arguments)
        assert shown.status == 0
        assert "http://far:8000" in shown.out
        assert not re.search("sesame|barley", shown.out + shown.err)


def test_a_mistyped_setting(call: Callable[..., Ended], tmp_path: Path) -> None:
    """It is an error that names its path."""
    (tmp_path / "config" / "corral").mkdir(parents=True)
    (tmp_path / "config" / "corral" / "config.toml").write_text('[engines.upstream.hosts."http://h"]\nkye = "x"\n')
    ended = call("list")
    assert ended.status == 1
    assert "engines.upstream" in ended.err
    assert "kye" in ended.err


def test_without_the_http_client(tmp_path: Path) -> None:
    """The error has the pip line, and nothing else in Corral needs the package."""
    script = (
        "import sys; sys.modules['httpx'] = None; from corral.api.cli import main; "
        "main(['--config', '', 'upstream', 'far', 'http://127.0.0.1:9'])"
    )
    environment = {**os.environ, "CORRAL_MODELS": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the upstream engine cannot be imported" in done.stderr
    assert str(install_line(SPEC)) in done.stderr

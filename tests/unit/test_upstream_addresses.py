"""Addresses of upstreams: their form, keys, choice among several, failover, stale connections."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from typing import Any

import msgspec
import pytest

from corral.adapters.engines.upstream.addresses import next_address, normal_address
from corral.adapters.engines.upstream.directory import ServerDirectory
from corral.adapters.engines.upstream.spec import HostOptions, UpstreamOptions
from corral.core.errors import CorralError, InvalidRequest, ServerBusy, SettingsError, Unsupported, UpstreamError
from corral.core.ports.running import RunningModel
from corral.core.requests.messages import Message
from corral.core.requests.outputs import Delta, Finished, Output
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import ChatRequest, EmbedRequest
from corral.plugins.testing.scripted_server import ScriptedReply, ScriptedServer

HELLO = ChatRequest(messages=(Message(role="user", content="Hello"),))
CHAT = "/v1/chat/completions"
NOBODY = "http://127.0.0.1:9"


def models(name: str = "m", owned_by: str = "vllm") -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "owned_by": owned_by, "max_model_len": 512}]}


def answer(text: str) -> list[bytes]:
    chunks = [{"delta": {"content": text}, "finish_reason": None}, {"delta": {}, "finish_reason": "stop"}]
    return [b"data: " + json.dumps({"choices": [chunk]}).encode() + b"\n\n" for chunk in chunks]


async def text_of(model: RunningModel) -> str:
    outputs: list[Output] = [output async for output in model.run(HELLO)]
    assert isinstance(outputs[-1], Finished)
    return "".join(output.text for output in outputs if isinstance(output, Delta))


@pytest.fixture
def servers(upstream: ScriptedServer, another_upstream: ScriptedServer) -> tuple[Any, Any]:
    """Two servers that have the model; the first answers "one", the other "two"."""
    for server, text in ((upstream, "one"), (another_upstream, "two")):
        server.replies |= {"/v1/models": ScriptedReply(body=models()), CHAT: ScriptedReply(pieces=answer(text))}
    return upstream, another_upstream


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("gpu1:8000", "http://gpu1:8000"),
        ("HTTP://GPU1:80/", "http://gpu1"),
        ("https://api.example.org:443/v1/", "https://api.example.org"),
        ("http://h:1/some/path/v1", "http://h:1/some/path"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        (" http://h ", "http://h"),
    ],
)
def test_normal_addresses(text: str, normal: str) -> None:
    """Different spellings of an address count as the same address."""
    assert normal_address(text) == normal
    assert normal_address(normal) == normal


@pytest.mark.parametrize(
    "text", ["", "http://", "ftp://h", "http://h:x", "http://h:99999", "http://a b", "http://h?a=1"]
)
def test_what_is_no_address(text: str) -> None:
    """It is refused with an example of one."""
    with pytest.raises(InvalidRequest, match="not an address"):
        normal_address(text)


def test_a_key_in_an_address() -> None:
    """A password in an address is refused and not repeated, because it would end up in a manifest."""
    with pytest.raises(InvalidRequest, match="contains a user name or a key") as caught:
        normal_address("http://user:sesame@h:8000")
    assert "sesame" not in str(caught.value)


class Place(msgspec.Struct):
    in_flight: int = 0
    rests_until_s: float = 0.0


def test_the_next_address() -> None:
    """The least busy address is tried first, resting addresses last, and none twice."""
    busy, idle, resting = Place(in_flight=2), Place(), Place(rests_until_s=20.0)
    places = [busy, resting, idle]

    def chosen(*tried: Place) -> Place | None:
        return next((one for one in [next_address(places, tried, lambda: 10.0)] if one is not None), None)

    assert chosen() is idle
    busy.in_flight, idle.in_flight = 1, 2
    assert chosen() is busy


def test_who_has_been_tried_is_not_asked_again() -> None:
    """Resting addresses are tried if no other is left, in the order in which their rest ends."""
    first, second = "first", "second"

    class Named(Place):
        name: str = ""

    later, sooner = Named(name=first, rests_until_s=30.0), Named(name=second, rests_until_s=20.0)
    assert next_address([later, sooner], [], lambda: 10.0) is sooner
    assert next_address([later, sooner], [sooner], lambda: 10.0) is later
    assert next_address([later], [later], lambda: 10.0) is None


def test_requests_spread(servers: Any, load_upstream: Any) -> None:
    """Concurrent requests go to whichever address has fewer."""
    for server in servers:
        server.replies[CHAT] = ScriptedReply(pieces=answer("x")[:1], endless=True)

    async def check() -> None:
        model = await load_upstream(*(server.url for server in servers))
        running = [model.run(HELLO) for _ in range(6)]
        for outputs in running:
            await anext(outputs)
        assert [len(server.bodies(CHAT)) for server in servers] == [3, 3]
        for outputs in running:
            await outputs.aclose()
        await model.aclose()

    asyncio.run(check())


def test_one_address_is_dead_from_the_start(servers: Any, load_upstream: Any) -> None:
    """The model still loads, and the other address answers every request."""

    async def check() -> None:
        model = await load_upstream(NOBODY, servers[1].url)
        assert [await text_of(model) for _ in range(3)] == ["two"] * 3
        await model.aclose()

    asyncio.run(check())


@pytest.mark.parametrize("failing", [{"breaks": True}, {"status": 502}, {"status": 503}, {"status": 429}])
def test_another_answers(servers: Any, load_upstream: Any, failing: dict[str, Any]) -> None:
    """If a server goes away or is too busy before its first token, no answer is lost."""
    servers[0].replies[CHAT] = ScriptedReply(**failing)

    async def check() -> None:
        model = await load_upstream(*(server.url for server in servers))
        assert await text_of(model) == "two"
        await model.aclose()

    asyncio.run(check())


def test_a_stream_that_dies_before_its_first_token(servers: Any, load_upstream: Any) -> None:
    """The head of an answer and an empty chunk do not count as output: another server answers."""
    opening = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    servers[0].replies[CHAT] = ScriptedReply(pieces=[opening], breaks=True)

    async def check() -> None:
        model = await load_upstream(*(server.url for server in servers))
        assert await text_of(model) == "two"
        await model.aclose()

    asyncio.run(check())


def test_a_stream_that_dies_after_its_first_token(servers: Any, load_upstream: Any) -> None:
    """It is an error: another server would start over with a different answer."""
    servers[0].replies[CHAT] = ScriptedReply(pieces=answer("one")[:1], breaks=True)

    async def check() -> None:
        model = await load_upstream(*(server.url for server in servers))
        with pytest.raises(UpstreamError, match="in the middle of its answer"):
            await text_of(model)
        assert servers[1].bodies(CHAT) == []
        await model.aclose()

    asyncio.run(check())


def test_who_failed_rests(servers: Any, load_upstream: Any) -> None:
    """It is tried last for the configured time, and as usual after that."""
    servers[0].replies[CHAT] = [ScriptedReply(status=502), ScriptedReply(pieces=answer("one"))]

    async def check() -> None:
        model = await load_upstream(*(server.url for server in servers), rest_s=3600)
        assert [await text_of(model) for _ in range(3)] == ["two"] * 3
        assert len(servers[0].bodies(CHAT)) == 1
        await model.aclose()

        servers[0].replies[CHAT] = [ScriptedReply(status=502), ScriptedReply(pieces=answer("one"))]
        model = await load_upstream(*(server.url for server in servers), rest_s=0)
        assert [await text_of(model) for _ in range(2)] == ["two", "one"]
        await model.aclose()

    asyncio.run(check())


def test_nobody_is_left(servers: Any, load_upstream: Any) -> None:
    """The error is the busy server's rather than the dead one's, because trying again may help."""
    servers[0].replies[CHAT] = ScriptedReply(status=503, body={"error": "queue is full"})
    servers[1].replies[CHAT] = ScriptedReply(breaks=True)

    async def check() -> None:
        model = await load_upstream(*(server.url for server in servers))
        with pytest.raises(ServerBusy, match="queue is full"):
            await text_of(model)
        await model.aclose()
        with pytest.raises(UpstreamError, match="no server answers at"):
            await load_upstream(NOBODY)

    asyncio.run(check())


def test_a_refusal_is_final(servers: Any, load_upstream: Any) -> None:
    """A request that one server rejects as bad is not tried on the next."""
    servers[0].replies[CHAT] = ScriptedReply(status=400, body={"error": "bad"})

    async def check() -> None:
        model = await load_upstream(*(server.url for server in servers))
        with pytest.raises(InvalidRequest):
            await text_of(model)
        assert servers[1].bodies(CHAT) == []
        await model.aclose()

    asyncio.run(check())


def test_embeddings_fail_over(servers: Any, load_upstream: Any) -> None:
    """They are handled like texts."""
    servers[0].replies["/v1/embeddings"] = ScriptedReply(breaks=True)
    servers[1].replies["/v1/embeddings"] = ScriptedReply(body={"data": [{"embedding": [1, 2]}]})

    async def check() -> None:
        model = await load_upstream(*(server.url for server in servers))
        [output] = [output async for output in model.run(EmbedRequest(inputs=((TextPart(text="a"),),)))]
        assert output.vectors.count == 1
        await model.aclose()

    asyncio.run(check())


def test_connections_are_kept(servers: Any, load_upstream: Any) -> None:
    """Consecutive requests share one."""

    async def check() -> None:
        model = await load_upstream(servers[0].url)
        for _ in range(5):
            await text_of(model)
        await model.aclose()

    asyncio.run(check())
    assert servers[0].connections == 1


def test_a_kept_connection_that_was_closed(servers: Any, load_upstream: Any) -> None:
    """If a server closes a kept connection on the next request, the request is sent once more, on a new connection."""
    server = servers[0]
    server.replies[CHAT] = [
        ScriptedReply(pieces=answer("one")),
        ScriptedReply(breaks=True),
        ScriptedReply(pieces=answer("again")),
    ]

    async def check() -> None:
        model = await load_upstream(server.url)
        assert [await text_of(model) for _ in range(2)] == ["one", "again"]
        server.replies[CHAT] = ScriptedReply(breaks=True)
        with pytest.raises(UpstreamError, match="closed the connection without an answer"):
            await text_of(model)
        await model.aclose()

    asyncio.run(check())
    assert len(server.bodies(CHAT)) == 5


def test_many_who_leave(servers: Any, load_upstream: Any) -> None:
    """Answers abandoned at any moment, even while they end, give their connection back for later ones."""
    server = servers[0]
    server.replies[CHAT] = ScriptedReply(pieces=[*answer("x")[:1] * 20, *answer("x")])

    async def leave(model: RunningModel) -> None:
        outputs = model.run(HELLO)
        await anext(outputs)
        await outputs.aclose()

    async def check() -> None:
        model = await load_upstream(server.url, max_connections=2)
        async with asyncio.timeout(30):
            for _ in range(5):
                await asyncio.gather(*(leave(model) for _ in range(8)))
            assert await text_of(model) == "x" * 21
        await model.aclose()

    asyncio.run(check())


# ── Keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_address_gets_its_own_key(
    servers: Any, load_upstream: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """From the settings or the variable they name, to that address alone, and into no log."""
    first, second = servers
    first.replies[CHAT] = ScriptedReply(status=503)
    monkeypatch.setenv("KEY_OF_THE_SECOND", "open-barley")
    hosts = {
        f"{first.url}/v1/": {"key": "open-sesame", "headers": {"X-Team": "blue"}},
        second.url: {"key_env": "KEY_OF_THE_SECOND"},
    }

    async def check() -> None:
        model = await load_upstream(first.url, second.url, hosts=hosts)
        assert await text_of(model) == "two"
        await model.aclose()

    with caplog.at_level(logging.DEBUG):
        asyncio.run(check())
    sent = {server.url: Counter(asked.headers.get("authorization") for asked in server.asked) for server in servers}
    assert sent == {first.url: Counter(["Bearer open-sesame"] * 4), second.url: Counter(["Bearer open-barley"] * 3)}
    assert {asked.headers.get("x-team") for asked in first.asked} == {"blue"}
    assert {asked.headers.get("x-team") for asked in second.asked} == {None}
    assert "open-" not in caplog.text


def test_a_key_that_is_refused(servers: Any, load_upstream: Any) -> None:
    """The error names the setting without revealing the key."""
    servers[0].replies["/v1/models"] = ScriptedReply(status=401, body={"error": {"message": "who are you?"}})

    async def check() -> None:
        with pytest.raises(UpstreamError, match="who are you") as caught:
            await load_upstream(servers[0].url, hosts={servers[0].url: {"key": "sesame"}})
        assert f'[engines.upstream.hosts."{servers[0].url}"]' in str(caught.value.remedy)
        assert "sesame" not in str(caught.value.info)

    asyncio.run(check())


@pytest.mark.parametrize(
    ("host", "text"),
    [({"key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY, which is not set"), ({"headers": {"a": "b\n"}}, "cannot be sent")],
)
def test_keys_that_are_none(load_upstream: Any, host: dict[str, Any], text: str) -> None:
    """An unset variable and an invalid header are reported at load, before any server is asked."""
    with pytest.raises(SettingsError, match=text):
        asyncio.run(load_upstream(NOBODY, hosts={NOBODY: host}))


def test_keys_show_nowhere() -> None:
    """Not where options are printed."""
    options = UpstreamOptions(hosts={"http://h": HostOptions(key="sesame", headers={"X-Key": "sesame"})})
    assert "sesame" not in repr(options)


def test_ollama_com(load_upstream: Any) -> None:
    """It is asked only if the settings name it, because anyone's manifest may name it as well."""
    with pytest.raises(Unsupported, match="ollama cloud is disabled"):
        asyncio.run(load_upstream("https://ollama.com:443"))


def test_proxies_are_not_asked(servers: Any, load_upstream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy variables count only if the settings say so."""
    monkeypatch.setenv("HTTP_PROXY", NOBODY)
    monkeypatch.setenv("http_proxy", NOBODY)

    async def check(trust_env: bool) -> None:
        model = await load_upstream(servers[0].url, trust_env=trust_env)
        assert await text_of(model) == "one"
        await model.aclose()

    asyncio.run(check(False))
    with pytest.raises(CorralError):
        asyncio.run(check(True))


# ── Finding models ────────────────────────────────────────────────────────────────────────────────────────────────


def find(*arguments: Any) -> Any:
    return asyncio.run(ServerDirectory({}).find(*arguments))


@pytest.mark.parametrize(
    ("owned_by", "api"), [("vllm", "vllm"), ("sglang", "sglang"), ("llamacpp", "llama-server"), ("me", "openai")]
)
def test_what_a_server_speaks(upstream: ScriptedServer, owned_by: str, api: str) -> None:
    """It is recognised by the owner of its models."""
    upstream.replies["/v1/models"] = ScriptedReply(body=models("llama", owned_by))
    offer = find(f"{upstream.url}/v1")
    assert (offer.host, offer.model, offer.api, offer.context_length) == (upstream.url, "llama", api, 512)


def test_what_llama_server_tells(upstream: ScriptedServer) -> None:
    """Its lengths and capabilities are used."""
    listed = {"id": "m", "owned_by": "llamacpp", "meta": {"n_ctx": 4096, "n_embd": 576, "n_vocab": 1}}
    body = {"models": [{"name": "m", "capabilities": ["completion", "multimodal"]}], "data": [listed]}
    upstream.replies["/v1/models"] = ScriptedReply(body=body)
    offer = find(upstream.url)
    assert (offer.context_length, offer.embedding_length, offer.capabilities) == (4096, 576, ("completion", "vision"))


def test_what_ollama_tells(upstream: ScriptedServer) -> None:
    """A name without its tag finds the model, and the server's facts about it are used."""
    upstream.replies |= {
        "/api/version": ScriptedReply(body={"version": "0.33.0"}),
        "/api/tags": ScriptedReply(body={"models": [{"name": "llama3:latest"}, {"name": "x:1b"}]}),
        "/api/show": ScriptedReply(
            body={
                "details": {"family": "llama", "parameter_size": "8.0B", "quantization_level": "Q4_0"},
                "model_info": {"llama.context_length": 8192, "llama.embedding_length": 4096},
                "capabilities": ["completion", "tools"],
            }
        ),
    }
    offer = find(upstream.url, "llama3")
    assert (offer.model, offer.api, offer.family, offer.parameter_size) == ("llama3:latest", "ollama", "llama", "8.0B")
    assert (offer.context_length, offer.embedding_length) == (8192, 4096)
    assert offer.capabilities == ("completion", "tools")


def test_models_that_are_not_there(upstream: ScriptedServer) -> None:
    """The available models are listed if the name is unknown or missing."""
    upstream.replies["/v1/models"] = ScriptedReply(body={"data": [{"id": "a"}, {"id": "b"}]})
    for arguments, text in (((upstream.url, "c"), "has no model 'c'"), ((upstream.url,), "has several models")):
        with pytest.raises(UpstreamError, match=text) as caught:
            find(*arguments)
        assert "a, b" in str(caught.value.remedy)


def test_a_server_that_has_not_implemented_what_it_is_asked(upstream: ScriptedServer) -> None:
    """501 for another API's path means only that the server has no such path."""
    upstream.replies["/api/version"] = ScriptedReply(status=501, body="not implemented")
    upstream.replies["/v1/models"] = ScriptedReply(body={"data": [{"id": "a"}]})
    assert (find(upstream.url).api, find(upstream.url).model) == ("openai", "a")


def test_a_server_that_tells_nothing(upstream: ScriptedServer) -> None:
    """The API and the model are taken from the configuration if given; otherwise the server is asked."""
    with pytest.raises(UpstreamError, match="offers neither"):
        find(upstream.url)
    with pytest.raises(UpstreamError, match="does not tell"):
        find(upstream.url, None, "openai")
    assert find(upstream.url, "m", "openai").model == "m"
    upstream.replies["/v1/models"] = ScriptedReply(body=[1, 2])
    with pytest.raises(UpstreamError, match="offers neither"):
        find(upstream.url)


def test_an_api_that_nobody_speaks() -> None:
    """The known ones are listed."""
    with pytest.raises(InvalidRequest, match="unknown API 'soap'"):
        find(NOBODY, "m", "soap")

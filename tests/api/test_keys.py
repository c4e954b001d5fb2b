"""A server that asks for keys: who may do what on which route, limits, revocation, and turns in the queue."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from litestar import Router, get

from corral.adapters.authenticators.key_file import KeyFile
from corral.adapters.authenticators.keys import KeyAuthenticator
from corral.adapters.authenticators.settings import KeysSettings
from corral.api.http.dialects import Dialect
from corral.api.http.errors import ApiError
from corral.core.requests.principal import SCOPES, Principal, RequestLimits, Scope
from corral.core.scheduling.settings import SchedulerSettings

MODEL = "smol:q4"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": False}
OPEN = {("get", "/"), ("get", "/api/version"), ("get", "/openapi.json"), ("get", "/health")}
LLAMA_SERVER = ("/tokenize", "/detokenize", "/apply-template", "/infill", "/health", "/props")


class Own(Dialect):
    """A dialect with an envelope of its own."""

    name = "own"

    def body(self, problem: ApiError) -> bytes:
        return f'{{"own":{problem.status}}}'.encode()


@get("/plain")
async def unlabelled() -> str:
    """A plugin's route that says nothing of scopes."""
    return "in"


@get("/infer", opt={"scope": "infer"})
async def labelled() -> str:
    """A plugin's route for everybody with a key."""
    return "in"


PLUGIN = Router("/own", route_handlers=[unlabelled, labelled], opt={"dialect": Own()})


class Keyed:
    """A running server that asks for keys, and a way to make them."""

    def __init__(self, server: Any, file: KeyFile) -> None:
        self.url: str = server.url
        self.server = server
        self.file = file

    def key(self, name: str, *scopes: Scope, models: tuple[str, ...] = ("*",), **limits: int) -> str:
        with contextlib.suppress(ValueError):
            asyncio.run(self.file.revoke(name))
        principal = Principal(
            name=name, scopes=frozenset(scopes or SCOPES), models=models, limits=RequestLimits(**limits)
        )
        key = asyncio.run(self.file.create(principal))
        self.within(lambda: self.ask("HEAD", "/api/tags", key).status_code != 401)
        return key

    def ask(self, method: str, path: str, key: str | None = None, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key is not None else {}
        return httpx.request(method, self.url + path, headers=headers | more.pop("headers", {}), timeout=60, **more)

    def within(self, condition: Callable[[], bool]) -> None:
        done = threading.Event()
        for _ in range(400):
            if condition():
                return
            done.wait(0.05)
        raise AssertionError("it did not happen")


@pytest.fixture(scope="module")
def keyed(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    file = KeyFile(tmp_path_factory.mktemp("keys") / "keys.json")
    authenticator = KeyAuthenticator(KeysSettings(file=str(file.path)))
    with start_server(engine={"step_delay_s": 0.003}, authenticator=authenticator, routers=(PLUGIN,)) as server:
        yield Keyed(server, file)


def operations(keyed: Keyed) -> list[tuple[str, str, list[Any], str]]:
    """Verb, path with its parameters filled in, `security`, and the scope of each operation that the document lists."""
    document = httpx.get(f"{keyed.url}/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey"}
    found = []
    for path, verbs in document["paths"].items():
        filled = re.sub(r"\{digest\}", "sha256:" + "0" * 64, path)
        filled = re.sub(r"\{\w+\}", "x", filled)
        found += [(verb, filled, one["security"], one["x-corral-scope"]) for verb, one in verbs.items()]
    assert len(found) > 20
    return found


def envelope_fits(path: str, response: httpx.Response) -> bool:
    """Whether the body is an error in the dialect of the path."""
    if response.request.method == "HEAD":
        return True
    body = response.json()
    if path.startswith("/own"):
        return list(body) == ["own"]
    if path.startswith(LLAMA_SERVER):
        return set(body["error"]) == {"code", "message", "type"} and body["error"]["code"] == response.status_code
    if path.startswith("/v1"):
        return isinstance(body["error"], dict) and bool(body["error"]["message"])
    return isinstance(body["error"], str) and bool(body["error"])


def test_every_route_asks_for_a_key(keyed: Keyed) -> None:
    """Without a key and with a wrong one it is 401, in the route's envelope; a few routes answer everybody."""
    wrong = keyed.key("wrong")[:-4] + "0000"
    with httpx.Client(base_url=keyed.url) as client:
        for verb, path, security, scope in operations(keyed):
            if (verb, path) in OPEN:
                assert (security, scope) == ([], "open")
                assert client.request(verb, path).status_code == 200
                continue
            assert len(security) == 2
            for headers in ({}, {"authorization": f"Bearer {wrong}"} if scope == "infer" and verb == "get" else {}):
                answer = client.request(verb, path, headers=headers)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
                assert envelope_fits(path, answer), path


def test_every_route_asks_for_a_scope(keyed: Keyed) -> None:
    """A key without it is refused with 403, in the route's envelope."""
    lacking = {
        "infer": keyed.key("manager", "manage"),
        "manage": keyed.key("user", "infer"),
        "admin": keyed.key("both", "infer", "manage"),
    }
    scopes = {}
    for verb, path, security, scope in operations(keyed):
        scopes[verb, path] = scope
        if security:
            answer = keyed.ask(verb.upper(), path, lacking[scope])
            assert answer.status_code == 403, path
            assert envelope_fits(path, answer), path
    assert scopes["post", "/api/pull"] == scopes["post", "/api/create"] == "manage"
    assert scopes["get", "/own/plain"] == "admin"


def test_every_route_keeps_the_limits(keyed: Keyed) -> None:
    """Over a limit it is 429, in the route's envelope, with what is left and when to come again."""
    key = keyed.key("slow", requests_per_minute=1)
    for verb, path, security, _ in operations(keyed):
        if security:
            answer = keyed.ask(verb.upper(), path, key)
            assert answer.status_code == 429, path
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert answer.headers["x-ratelimit-limit-requests"] == "1"
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
            assert re.fullmatch(r"\d+s|1m0s", answer.headers["x-ratelimit-reset-requests"])
            assert envelope_fits(path, answer), path


def test_what_is_not_a_route_asks_for_a_key_too(keyed: Keyed) -> None:
    """Unknown paths, wrong verbs and bodies of any size: the key comes first, and none of the body is read."""
    for method, path in (("GET", "/nowhere"), ("GET", "/v1/nowhere"), ("PUT", "/api/chat")):
        assert keyed.ask(method, path).status_code == 401
    assert keyed.ask("POST", "/api/chat", content=b"[" * 100_000_000).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer KEY"},
        {"authorization": "bearer  KEY"},
        {"x-api-key": "KEY"},
        {"authorization": "Basic eDp5", "x-api-key": "KEY"},
    ],
)
def test_where_a_key_may_stand(keyed: Keyed, headers: dict[str, str]) -> None:
    """Where the clients of the vendors put it."""
    key = keyed.key("where", "infer")
    sent = {name: value.replace("KEY", key) for name, value in headers.items()}
    assert httpx.get(f"{keyed.url}/api/tags", headers=sent).status_code == 200


def test_a_browser_may_ask_before_it_sends_its_key(keyed: Keyed) -> None:
    """A preflight has no key; the headers that keys stand in are allowed."""
    asked = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
    answer = keyed.ask("OPTIONS", "/api/chat", headers=asked)
    assert answer.status_code == 204
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert {"authorization", "x-api-key", "anthropic-version"} <= set(allowed.split(","))


def test_hidden_models_do_not_exist(keyed: Keyed) -> None:
    """They are in no list, and asking for one gets the answer that asking for an unknown one gets."""
    key = keyed.key("limited", models=("other",))
    full = keyed.key("full")
    assert keyed.ask("POST", "/api/chat", full, json=CHAT).status_code == 200
    assert MODEL in [one["name"] for one in keyed.ask("GET", "/api/ps", full).json()["models"]]
    assert keyed.ask("GET", "/api/ps", key).json()["models"] == []
    assert [one["name"] for one in keyed.ask("GET", "/api/tags", key).json()["models"]] == ["other:latest"]
    assert [one["id"] for one in keyed.ask("GET", "/v1/models", key).json()["data"]] == ["other:latest"]
    calls: list[tuple[str, str, Callable[[str], dict[str, Any]]]] = [
        ("POST", "/api/show", lambda name: {"model": name}),
        ("POST", "/api/chat", lambda name: CHAT | {"model": name}),
        ("POST", "/api/generate", lambda name: {"model": name, "prompt": "hi", "stream": False}),
        ("POST", "/api/generate", lambda name: {"model": name, "keep_alive": 0}),
        ("POST", "/api/generate", lambda name: {"model": name}),
        ("POST", "/api/embed", lambda name: {"model": name, "input": "hi"}),
        ("POST", "/api/embeddings", lambda name: {"model": name, "prompt": "hi"}),
        ("POST", "/api/copy", lambda name: {"source": name, "destination": "other"}),
        ("DELETE", "/api/delete", lambda name: {"model": name}),
        ("POST", "/api/push", lambda name: {"model": name, "stream": False}),
        ("POST", "/api/create", lambda name: {"model": "other", "from": name, "stream": False}),
    ]
    for method, path, body in calls:
        hidden, unknown = (keyed.ask(method, path, key, json=body(name)) for name in (MODEL, "nope:q4"))
        assert hidden.status_code == unknown.status_code >= 400, path
        assert hidden.text.replace(MODEL, "nope:q4") == unknown.text, path
    hidden, unknown = (keyed.ask("GET", f"/v1/models/{name}", key) for name in (MODEL, "nope:q4"))
    assert (hidden.status_code, hidden.text.replace(MODEL, "nope:q4")) == (404, unknown.text)
    assert MODEL in [one["name"] for one in keyed.ask("GET", "/api/tags", full).json()["models"]]


def test_names_that_a_key_may_not_give(keyed: Keyed) -> None:
    """A model is neither made nor replaced under one, whether or not it is taken."""
    key = keyed.key("maker", models=("other", "mine-*"))
    for name in (MODEL, "nope:q4"):
        for path, body in (
            ("/api/copy", {"source": "other", "destination": name}),
            ("/api/create", {"model": name, "from": "other", "stream": False}),
            ("/api/pull", {"model": name, "stream": False}),
        ):
            answer = keyed.ask("POST", path, key, json=body)
            assert (answer.status_code, "may not use the name" in answer.text) == (403, True), path
    pulled = keyed.ask("POST", "/api/pull", key, json={"model": "pypi://anything", "stream": False})
    assert (pulled.status_code, "destination" in pulled.text) == (403, True)
    assert keyed.ask("POST", "/api/copy", key, json={"source": "other", "destination": "mine-1"}).status_code == 200
    assert keyed.ask("DELETE", "/api/delete", key, json={"model": "mine-1"}).status_code == 200


def test_a_revoked_key_is_refused(keyed: Keyed) -> None:
    """Soon, without a restart; a new key counts as soon."""
    key = keyed.key("leaver")
    assert keyed.ask("GET", "/api/tags", key).status_code == 200
    asyncio.run(keyed.file.revoke("leaver"))
    keyed.within(lambda: keyed.ask("GET", "/api/tags", key).status_code == 401)


def test_tokens_are_charged(keyed: Keyed) -> None:
    """What an answer has cost is gone from the minute's share, and the headers say so, to each in its own words."""
    key = keyed.key("reader", tokens_per_minute=1_000_000)
    first = keyed.ask("POST", "/api/chat", key, json=CHAT)
    assert first.headers["x-ratelimit-remaining-tokens"] == "1000000"
    used = first.json()["prompt_eval_count"] + first.json()["eval_count"]
    left = int(keyed.ask("GET", "/api/tags", key).headers["x-ratelimit-remaining-tokens"])
    assert 1_000_000 - used <= left  # the minute's share has begun to fill up again
    tight = keyed.key("tight", tokens_per_minute=used)
    assert keyed.ask("POST", "/api/chat", tight, json=CHAT).status_code == 200
    refused = keyed.ask("POST", "/api/chat", tight, json=CHAT)
    assert (refused.status_code, "tokens per minute" in refused.text) == (429, True)
    second = keyed.ask("GET", "/api/tags", key, headers={"anthropic-version": "2023-06-01"})
    assert second.headers["anthropic-ratelimit-tokens-limit"] == "1000000"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", second.headers["anthropic-ratelimit-tokens-reset"])


def test_requests_at_once_end_with_their_clients(start_server: Callable[..., Any], tmp_path: Path) -> None:
    """The place of a request is free again when it was answered, and when its client has left."""
    file = KeyFile(tmp_path / "keys.json")
    authenticator = KeyAuthenticator(KeysSettings(file=str(file.path)))
    with start_server(engine={"answer": "word " * 5000, "step_delay_s": 0.01}, authenticator=authenticator) as server:
        keyed = Keyed(server, file)
        key = keyed.key("single", parallel=1)
        endless = CHAT | {"stream": True, "options": {"num_predict": 4000}}
        with httpx.stream(
            "POST", f"{keyed.url}/api/chat", json=endless, headers={"x-api-key": key}, timeout=60
        ) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            next(lines)
            assert keyed.ask("GET", "/api/tags", key).status_code == 429
        keyed.within(lambda: keyed.ask("GET", "/api/tags", key).status_code == 200)
        assert keyed.ask("GET", "/api/tags", key).status_code == 200


def test_the_official_client_sends_its_key(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    """``OLLAMA_API_KEY`` is all that it needs; without it, it says that it has none."""
    monkeypatch.setenv("OLLAMA_API_KEY", keyed.key("official", "infer"))
    with ollama.Client(host=keyed.url) as client:
        assert client.chat(MODEL, CHAT["messages"]).message.content
    monkeypatch.delenv("OLLAMA_API_KEY")
    with ollama.Client(host=keyed.url) as client, pytest.raises(ollama.ResponseError, match="asks for a key") as caught:
        client.list()
    assert caught.value.status_code == 401


def test_a_greedy_key_delays_another_by_one_answer(
    start_server: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While a thousand of its requests wait for the only stream, another's is next: it waits for the running answer,
    and for one more if it has just had its turn.
    """
    file = KeyFile(tmp_path / "keys.json")
    greedy, other = [asyncio.run(file.create(Principal(name=name, scopes=frozenset(SCOPES)))) for name in "go"]
    engine = {"answer": "one two three four", "parallel": 1, "step_delay_s": 0.03}
    caplog.set_level("INFO", "corral.http")

    def ended() -> int:
        """How many answers the server has finished."""
        return sum(getattr(one, "http", {}).get("tokens") is not None for one in caplog.records)

    async def main(url: str) -> list[int]:
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=None)) as client:
            asked = [
                asyncio.create_task(client.post("/api/chat", json=CHAT, headers={"x-api-key": greedy}))
                for _ in range(1000)
            ]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            found = []
            for _ in range(3):
                before = ended()
                answer = await client.post("/api/chat", json=CHAT, headers={"x-api-key": other})
                assert answer.status_code == 200
                found.append(ended() - before - 1)
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            return found

    settings = SchedulerSettings(max_queue=1000)
    authenticator = KeyAuthenticator(KeysSettings(file=str(file.path)))
    with start_server(engine=engine, authenticator=authenticator, scheduler=settings) as server:
        assert max(asyncio.run(main(server.url))) <= 2

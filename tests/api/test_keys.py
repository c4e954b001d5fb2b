"""A server that asks for keys: who may do what on which route, limits, revocation, and turns in the queue."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import anthropic
import httpx
import jsonschema_rs
import msgspec
import ollama
import openai
import pytest
from click.testing import CliRunner
from litestar import Router, get

from corral.adapters.authenticators.key_file import KeyFile
from corral.adapters.authenticators.keys import KeyAuthenticator
from corral.adapters.authenticators.settings import KeysSettings
from corral.adapters.engines.fake import SPEC
from corral.adapters.engines.fake.engine import FakeEngine
from corral.adapters.engines.fake.options import FakeLoadOptions
from corral.api.cli import main
from corral.api.cli.client import ServerClient
from corral.api.cli.create_on_server import create_on_server
from corral.api.http.dialects import Dialect
from corral.api.http.errors import ApiError
from corral.core.access import wrong_tries
from corral.core.access_errors import Forbidden
from corral.core.catalog.create_calls import CreateCall
from corral.core.models.names import parse_name
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.tokens import TokenMask
from corral.core.requests.outputs import EngineFinished, EngineOutput, Prefilled
from corral.core.requests.principal import SCOPES, Principal, RequestLimits, Scope
from corral.core.requests.requests import Request
from corral.core.scheduling.settings import SchedulerSettings
from corral.core.specs.engines import LoadRequest
from corral.plugins.assembly import Address
from corral.plugins.testing.gguf import gguf_bytes

MODEL = "smol:q4"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": False}
OPEN = {("get", "/"), ("get", "/api/version"), ("get", "/openapi.json"), ("get", "/health")}


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
        for _ in range(2000):
            if condition():
                return
            done.wait(0.01)
        raise AssertionError("it did not happen")


@pytest.fixture(scope="module")
def keyed(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    file = KeyFile(tmp_path_factory.mktemp("keys") / "keys.json")
    # Its seconds are short, so that keys count at once.
    authenticator = KeyAuthenticator(KeysSettings(file=str(file.path)), clock_s=lambda: 100 * time.monotonic())
    with start_server(engine={"step_delay_s": 0.003}, authenticator=authenticator, routers=(PLUGIN,)) as server:
        yield Keyed(server, file)


class Operation(NamedTuple):
    """A verb on a path with its parameters filled in, what the document says of it, and how a client asks."""

    verb: str
    path: str
    security: list[Any]
    scope: str
    errors: Mapping[str, Any]
    """The schemas of its refusals by status; None where a plugin has not described them."""

    headers: Mapping[str, str] = {}

    @property
    def dialect(self) -> str:
        if self.headers:
            return "anthropic"
        return "openai" if self.path.startswith("/v1/") else ""


def operations(url: str) -> list[Operation]:
    """All that the server's document lists, ``HEAD`` for each ``GET``, and shared paths for both of their clients."""
    document = httpx.get(f"{url}/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey"}
    anthropic_error = {"$ref": "#/components/schemas/anthropic.AnthropicError"}
    found = []
    for path, verbs in document["paths"].items():
        filled = re.sub(r"\{digest\}", "sha256:" + "0" * 64, path)
        filled = re.sub(r"\{\w+\}", "x", filled)
        headers = {"anthropic-version": "2023-06-01"} if path.startswith("/v1/messages") else {}
        for verb, one in verbs.items():
            errors: dict[str, Any] = {}
            for status in ("401", "403", "429") if one["security"] else ():
                content = one["responses"][status].get("content", {}).get("application/json")
                errors[status] = content and {**content["schema"], "components": document["components"]}
            told = Operation(verb, filled, one["security"], one["x-corral-scope"], errors, headers)
            found.append(told)
            if verb == "get":
                found.append(told._replace(verb="head"))
            if path.startswith("/v1/models"):
                shared = {status: {**anthropic_error, "components": document["components"]} for status in errors}
                found.append(told._replace(errors=shared, headers={"anthropic-version": "2023-06-01"}))
    assert len(found) > 45
    return found


KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def require_refusal(operation: Operation, answer: httpx.Response, status: int) -> None:
    """The operation is refused with this status, in the envelope that the document tells of and its clients know."""
    if operation.verb == "head":
        assert answer.status_code == status or (status, answer.status_code) == (403, 405)  # not all have this verb
        assert not answer.content
        return
    assert answer.status_code == status, (operation, answer.text)
    body = answer.json()
    if operation.path.startswith("/own"):
        assert body == {"own": status}
        return
    jsonschema_rs.validate(operation.errors[str(status)], body)
    if operation.dialect:
        assert (body["error"]["type"], bool(body["error"]["message"])) == (KINDS[status], True), operation
    if operation.dialect == "anthropic":
        assert (body["type"], body["request_id"]) == ("error", answer.headers["request-id"])


def test_every_route_asks_for_a_key(
    start_server: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key and with a wrong one, wherever it stands, it is 401, in the route's envelope; a few routes answer
    everybody.
    """
    monkeypatch.setattr(wrong_tries, "_FREE_TRIES", 10_000)
    file = KeyFile(tmp_path / "keys.json")
    wrong = asyncio.run(file.create(Principal(name="wrong", scopes=frozenset(SCOPES))))[:-4] + "0000"
    authenticator = KeyAuthenticator(KeysSettings(file=str(file.path)))
    with start_server(authenticator=authenticator, routers=(PLUGIN,)) as server, httpx.Client() as client:
        for one in operations(server.url):
            if not one.security:
                assert ("get" if one.verb == "head" else one.verb, one.path) in OPEN
                assert one.scope == "open"
                if one.verb == "get":
                    assert client.get(server.url + one.path).status_code == 200
                continue
            assert len(one.security) == 2
            for key in ({}, {"authorization": f"Bearer {wrong}"}, {"x-api-key": wrong}):
                answer = client.request(one.verb, server.url + one.path, headers={**one.headers, **key})
                require_refusal(one, answer, 401)
                assert answer.headers["www-authenticate"] == "Bearer"


def test_every_route_asks_for_a_scope(keyed: Keyed) -> None:
    """A key without it is refused with 403, in the route's envelope."""
    lacking = {
        "infer": keyed.key("manager", "manage"),
        "manage": keyed.key("user", "infer"),
        "admin": keyed.key("both", "infer", "manage"),
    }
    scopes = {}
    for one in operations(keyed.url):
        scopes[one.verb, one.path] = one.scope
        if one.security:
            require_refusal(one, keyed.ask(one.verb, one.path, lacking[one.scope], headers=one.headers), 403)
    assert scopes["post", "/api/pull"] == scopes["post", "/api/create"] == "manage"
    assert scopes["get", "/own/plain"] == "admin"


def test_every_route_keeps_the_limits(keyed: Keyed) -> None:
    """Over a limit it is 429, in the route's envelope, with what is left and when to come again."""
    key = keyed.key("slow", requests_per_minute=1)
    for one in operations(keyed.url):
        if one.security:
            answer = keyed.ask(one.verb, one.path, key, headers=one.headers)
            require_refusal(one, answer, 429)
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            if one.dialect == "anthropic":
                assert answer.headers["anthropic-ratelimit-requests-remaining"] == "0"
                continue
            assert answer.headers["x-ratelimit-limit-requests"] == "1"
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
            assert re.fullmatch(r"\d+s|1m0s", answer.headers["x-ratelimit-reset-requests"])


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


def test_a_wrong_body_does_not_tell_which_models_are_hidden(keyed: Keyed) -> None:
    """In every dialect, what else is wrong with a request is said of a hidden model as of an unknown one."""
    key = keyed.key("prober", "infer", models=("other",))
    faults: dict[str, Any] = {
        "response_format": {"type": "zzz"},
        "format": "zzz",
        "text": {"format": {"type": "zzz"}},
        "messages": [{"role": "zz", "content": "x"}],
        "input": [{"role": "zz", "content": 1}],
        "prompt": [1, 2],
        "tools": [{"name": 1}],
        "think": "zzz",
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"effort": "high", "format": 1},
        "reasoning_effort": "zzz",
        "options": {"num_ctx": "x"},
        "engine": "zzz",
        "suffix": "x",
        "images": ["!"],
        "stop": [1],
    }
    right = {"messages": CHAT["messages"], "prompt": "x", "input": "x", "query": "x", "documents": ["x"]}
    right |= {"max_tokens": 3, "stream": False}
    asking = [one for one in operations(keyed.url) if one.verb == "post" and one.scope == "infer"]
    assert {one.dialect for one in asking} == {"", "openai", "anthropic"}
    with httpx.Client(base_url=keyed.url, headers={"x-api-key": key}, timeout=60) as client:
        for one in asking:
            for field, fault in faults.items():
                body = right | {field: fault}
                hidden, unknown = (
                    client.post(one.path, json=body | {"model": name}, headers=one.headers)
                    for name in (MODEL, "nope:q4")
                )
                assert hidden.status_code == unknown.status_code >= 400, (one.path, field)
                known_id, unknown_id = (answer.headers.get("request-id", "") for answer in (hidden, unknown))
                assert hidden.text.replace(MODEL, "nope:q4").replace(known_id, unknown_id) == unknown.text


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
    """Soon, without a restart; a new key counts as soon. What has been let in, running or waiting, is answered."""
    key = keyed.key("leaver")
    assert keyed.ask("GET", "/api/tags", key).status_code == 200
    endless = CHAT | {"stream": True, "options": {"ignore_eos": True, "num_predict": 4000, "num_ctx": 4096}}
    with httpx.stream("POST", f"{keyed.url}/api/chat", json=endless, headers={"x-api-key": key}, timeout=60) as running:
        lines = running.iter_lines()
        next(lines)
        asyncio.run(keyed.file.revoke("leaver"))
        keyed.within(lambda: keyed.ask("GET", "/api/tags", key).status_code == 401)
        assert [json.loads(next(lines))["done"] for _ in range(20)] == [False] * 20
    keyed.within(lambda: keyed.server.active() == 0)


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


@pytest.mark.parametrize("stream", [False, True])
def test_choices_count_as_requests(keyed: Keyed, stream: bool) -> None:
    """`n` answers are `n` requests for the limits; a key that may have one at once gets them one after the other."""
    key = keyed.key(f"chooser {stream}", requests_per_minute=9, parallel=1)
    answer = keyed.ask("POST", "/v1/chat/completions", key, json=CHAT | {"n": 8, "max_tokens": 3, "stream": stream})
    assert answer.status_code == 200
    if stream:
        chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        assert {choice["index"] for chunk in chunks for choice in chunk["choices"]} == set(range(8))
    else:
        assert len(answer.json()["choices"]) == 8
    assert int(keyed.ask("GET", "/api/tags", key).headers["x-ratelimit-remaining-requests"]) < 4


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


def test_the_clients_of_the_vendors_send_their_keys(keyed: Keyed) -> None:
    """As they always do; what a key may not, and a wrong key, is an error of their own classes."""
    key, manager = keyed.key("vendor", "infer"), keyed.key("vendors-manager", "manage")
    hello: Any = CHAT["messages"]
    with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=key, max_retries=0) as client:
        assert client.chat.completions.create(model=MODEL, messages=hello).choices[0].message.content
        with pytest.raises(openai.PermissionDeniedError, match="infer"):
            client.with_options(api_key=manager).models.list()
        with pytest.raises(openai.AuthenticationError, match="not valid") as wrong:
            client.with_options(api_key=f"{key}x").models.list()
    assert wrong.value.code == "invalid_api_key"
    with anthropic.Anthropic(base_url=keyed.url, api_key=key, max_retries=0) as own:
        assert own.messages.create(model=MODEL, max_tokens=20, messages=hello).content
        with pytest.raises(anthropic.PermissionDeniedError, match="infer"):
            own.with_options(api_key=manager).messages.create(model=MODEL, max_tokens=20, messages=hello)
        with pytest.raises(anthropic.AuthenticationError, match="not valid"):
            own.with_options(api_key=f"{key}x").models.list()
    slow = keyed.key("vendors-slow", requests_per_minute=1)
    with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=slow, max_retries=0) as client:
        with contextlib.suppress(openai.RateLimitError):  # the key was used to see whether it counts already
            client.models.list()
        with pytest.raises(openai.RateLimitError, match="requests per minute"):
            client.models.list()


def test_the_command_line_sends_its_key(keyed: Keyed, tmp_path: Path) -> None:
    """``CORRAL_API_KEY``; without it, or with a wrong one, a command says what to do."""

    def corral(*arguments: str, key: str | None) -> tuple[object, str, str]:
        folders = {name: str(tmp_path) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "CORRAL_MODELS")}
        environment = {**folders, "CORRAL_HOST": keyed.url, "CORRAL_API_KEY": key, "CORRAL_CONFIG": None}
        with CliRunner().isolation(env=environment) as (out, err, _):
            status: object = 0
            try:
                main(arguments)
            except SystemExit as end:
                status = end.code
            return status, out.getvalue().decode(), err.getvalue().decode()

    key = keyed.key("commands", "infer")
    status, out, err = corral("run", MODEL, "hello", key=key)
    assert (status, bool(out.strip())) == (0, True), err
    status, out, err = corral("ps", key=key)
    assert (status, MODEL in out) == (0, True), (out, err)
    for wrong in (None, f"{key}x"):
        status, _, err = corral("ps", key=wrong)
        assert (status, "CORRAL_API_KEY" in err) == (1, True), err
    status, _, err = corral("ps", key=keyed.key("commands-manager", "manage"))
    assert (status, "infer" in err) == (1, True), err


def test_the_command_line_says_why_an_upload_is_refused(keyed: Keyed, tmp_path: Path) -> None:
    """The server answers the question whether it has a file without a text; the command shows it nevertheless, as for a
    model that is made from another."""
    (tmp_path / "small.gguf").write_bytes(gguf_bytes())
    client = ServerClient(Address(keyed.url), api_key=keyed.key("uploader", "infer"))
    calls = [CreateCall(name=parse_name("x"), base=MODEL)]
    calls.append(CreateCall(name=parse_name("x"), files={"small.gguf": tmp_path / "small.gguf"}))
    told = []
    for call in calls:
        with pytest.raises(Forbidden) as refused:
            create_on_server(client, call, lambda progress: None)
        told.append(str(refused.value))
    assert told[0] == told[1]
    assert "lacks the scope 'manage'" in told[0]


class WatchedEngine(FakeEngine):
    """The fake engine with a list of what happens to requests, by the names of those who ask."""

    events: ClassVar[list[tuple[str, str, int]]] = []

    def __init__(self, options: FakeLoadOptions) -> None:
        super().__init__(options)
        self._names: dict[int, str] = {}

    def add_request(self, request_id: int, request: Request, mask: TokenMask | None) -> None:
        self._names[request_id] = request.caller.principal.name
        self.events.append(("came", self._names[request_id], request_id))
        super().add_request(request_id, request, mask)

    def step(self) -> list[tuple[int, EngineOutput]]:
        outputs = super().step()
        for request_id, output in outputs:
            if isinstance(output, Prefilled | EngineFinished):
                what = "began" if isinstance(output, Prefilled) else "ended"
                self.events.append((what, self._names[request_id], request_id))
        return outputs


def load_watched(request: LoadRequest, on_progress: OnLoadProgress) -> WatchedEngine:
    return WatchedEngine(msgspec.convert(request.load_options, FakeLoadOptions))


WATCHED = msgspec.structs.replace(SPEC, load="tests.api.test_keys:load_watched")


def test_a_greedy_key_delays_another_by_one_answer(start_server: Callable[..., Any], tmp_path: Path) -> None:
    """While a thousand of its requests wait for the only stream, another's waits for one of its answers at most: the
    one that is running when it comes, or the next.
    """
    file = KeyFile(tmp_path / "keys.json")
    keys = [asyncio.run(file.create(Principal(name=name, scopes=frozenset(SCOPES)))) for name in ("greedy", "other")]
    other = {"x-api-key": keys[1]}
    WatchedEngine.events.clear()

    body = json.dumps(CHAT)
    head = f"POST /api/chat HTTP/1.1\r\nhost: localhost\r\nx-api-key: {keys[0]}\r\ncontent-length: {len(body)}\r\n\r\n"

    async def ask(url: str) -> None:
        connections = []
        for _ in range(1000):
            connections.append(await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2])))
            connections[-1][1].write(f"{head}{body}".encode())
        assert b"200" in await connections[0][0].readline()
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            for _ in range(5):
                assert (await client.post("/api/chat", json=CHAT, headers=other)).status_code == 200
            together = [client.post("/api/chat", json=CHAT, headers=other) for _ in range(3)]
            assert {answer.status_code for answer in await asyncio.gather(*together)} == {200}
        for _, writer in connections:
            writer.close()

    engine = {"answer": "one two three four", "parallel": 1, "step_delay_s": 0.01}
    settings = SchedulerSettings(max_queue=1000)
    authenticator = KeyAuthenticator(KeysSettings(file=str(file.path)))
    with start_server(engine, engines=(WATCHED,), authenticator=authenticator, scheduler=settings) as server:
        asyncio.run(ask(server.url))
    assert sum(event[:2] == ("came", "greedy") for event in WatchedEngine.events) == 1000
    assert sum(event[:2] == ("ended", "greedy") for event in WatchedEngine.events) < 1000
    waited, since = list[int](), dict[int, int]()
    for what, name, request_id in WatchedEngine.events:
        if (what, name) == ("ended", "greedy"):
            since = {waiting: count + 1 for waiting, count in since.items()}
        elif name == "other" and what == "came":
            since[request_id] = 0
        elif name == "other" and what == "began":
            waited.append(since.pop(request_id))
    assert len(waited) == 8
    assert max(waited[:5]) <= 1  # one after the other: each waits for at most one of the greedy key's answers
    assert max(waited) <= 3  # three at once: at most one of the greedy key's comes before each

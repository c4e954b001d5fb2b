"""llama-server's routes: their answers and errors are llama-server's, and the model may be left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes
from tests.api.conftest import ANSWER, MODELS, LiveServer, running_server

MODEL = "coder"
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
FIM = {f"tokenizer.ggml.fim_{name}_token_id": place for place, name in enumerate(("pre", "suf", "mid"), 1)}
WRONG = "invalid_request_error"
GAP = {"input_prefix": "def f(", "input_suffix": "):"}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with running_server() as server:
        weights = gguf_bytes({**SMALL_MODEL, **FIM, "tokenizer.chat_template": TEMPLATE})
        fills_in: dict[str, Any] = {"capabilities": ("completion", "insert"), "parameters": {"top_k": 7}}
        server.call(lambda _: server.world.add(MODEL, data=weights, **fills_in))
        yield server


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def post(client: httpx.Client, path: str, **body: Any) -> Any:
    response = client.post(path, json={"model": MODEL, **body})
    assert response.status_code == 200, response.text
    return response.json()


def events(client: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    response = client.post("/infill", json={"model": MODEL, **GAP, "stream": True, **body})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream"
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_tokens_of_a_text(client: httpx.Client) -> None:
    """Ids alone or with pieces; contents may be lists of texts and ids; nothing at all is no token."""
    ids = post(client, "/tokenize", content="the ç")["tokens"]
    assert post(client, "/tokenize", content="the ç", with_pieces=True) == {
        "tokens": [{"id": one, "piece": piece} for one, piece in zip(ids, ["the", " ", [0xC3], [0xA7]], strict=True)]
    }
    assert post(client, "/tokenize", content=["the", 5, " ç"])["tokens"] == [ids[0], 5, *ids[1:]]
    assert post(client, "/tokenize", content="the", add_special=True)["tokens"] == [256, ids[0]]
    assert post(client, "/tokenize", content="<|bos|>")["tokens"] == [256]
    assert 256 not in post(client, "/tokenize", content="<|bos|>", parse_special=False)["tokens"]
    assert post(client, "/tokenize") == {"tokens": []}


def test_text_of_tokens(client: httpx.Client) -> None:
    """And of none."""
    ids = post(client, "/tokenize", content="people, 日本")["tokens"]
    assert post(client, "/detokenize", tokens=ids) == {"content": "people, 日本"}
    assert post(client, "/detokenize") == {"content": ""}


def test_a_chat_becomes_a_prompt(client: httpx.Client) -> None:
    """Messages are those of OpenAI's API. What has no effect is named."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    response = client.post("/apply-template", json={"model": MODEL, "messages": messages, "chat_template_kwargs": {}})
    assert response.json() == {"prompt": "<|im_start|>user\nhi<|im_end|>\n"}
    assert response.headers["x-corral-ignored"] == "chat_template_kwargs"


def test_filling_in(client: httpx.Client, server: LiveServer) -> None:
    """The answer is llama-server's: whole, in parts, or the fields that were asked for; sampled as it says."""
    whole = post(client, "/infill", **GAP, input_extra=[{"text": "x"}], prompt="a", temperature=0, samplers=["top_k"])
    assert whole["content"] == ANSWER
    assert (whole["stop"], whole["stop_type"], whole["truncated"]) == (True, "eos", False)
    assert whole["model"] == MODEL
    assert whole["tokens_predicted"] == whole["timings"]["predicted_n"] > 0
    assert whole["tokens_evaluated"] == whole["timings"]["prompt_n"] + whole["timings"]["cache_n"]
    assert whole["corral"] == {"ignored": ["samplers"]}
    parts = events(client, n_predict=3, n_probs=2)
    assert [part["stop"] for part in parts] == [*[False] * (len(parts) - 1), True]
    assert ANSWER.startswith("".join(part["content"] for part in parts))
    assert parts[-1]["stop_type"] == "limit"
    assert len(parts[0]["completion_probabilities"][0]["top_logprobs"]) == 2
    word = post(client, "/infill", **GAP, stop=["quick"])
    assert (word["content"], word["stop_type"], word["stopping_word"]) == ("the ", "word", "quick")
    chosen = post(client, "/infill", **GAP, response_fields=["content", "timings/prompt_n", "nothing/here"])
    assert chosen == {"content": ANSWER, "timings/prompt_n": chosen["timings/prompt_n"]}
    assert post(client, "/infill", **GAP, t_max_predict_ms=1)["content"] == ANSWER, "it has no whole line"
    grammar = post(client, "/infill", **GAP, json_schema={"type": "integer"}, n_predict=4)
    assert int(grammar["content"]) is not None


def test_the_only_model_in_memory(client: httpx.Client, server: LiveServer) -> None:
    """Requests that name no model mean it; with none or several, they are told to name one."""
    server.call(lambda runtime: _unload(runtime))
    missing = client.post("/tokenize", json={"content": "x"})
    assert missing.status_code == 400
    assert missing.json()["error"] == {
        "code": 400,
        "message": 'model name is missing from the request, and none is in memory: send it in "model"',
        "type": WRONG,
    }
    client.post("/api/generate", json={"model": MODEL})
    assert client.post("/tokenize", json={"content": "the"}).json() == post(client, "/tokenize", content="the")
    assert client.get("/props").json()["model_alias"] == f"{MODEL}:latest"
    client.post("/api/generate", json={"model": MODELS[0]})
    missing = client.post("/infill", json=GAP)
    assert missing.status_code == 400
    assert f"2 models are in memory ({MODEL}:latest, {MODELS[0]})" in missing.json()["error"]["message"]
    assert client.get("/props").json()["role"] == "router"


def test_health(client: httpx.Client) -> None:
    """The server answers whoever asks."""
    assert client.get("/health").json() == {"status": "ok"}
    assert client.head("/health").status_code == 200


def test_props_of_a_model(client: httpx.Client, server: LiveServer) -> None:
    """What a request is answered with that sets nothing; no path of this machine is in it."""
    server.call(lambda runtime: _unload(runtime))
    props = client.get("/props", params={"model": MODEL}).json()
    assert props["is_sleeping"]
    assert props["default_generation_settings"]["params"]["top_k"] == 7
    assert props["default_generation_settings"]["params"]["n_predict"] == -1
    assert props["chat_template"] == TEMPLATE
    assert props["modalities"] == {"vision": False, "audio": False}
    assert props["build_info"] == "corral-9.9.9"
    assert props["model_path"].endswith(f"/{MODEL}:latest")
    client.post("/api/generate", json={"model": MODEL})
    awake = client.get("/props", params={"model": MODEL}).json()
    assert not awake["is_sleeping"]
    assert awake["total_slots"] == 8
    assert awake["default_generation_settings"]["n_ctx"] == 4096


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind", "text"),
    [
        ("POST", "/tokenize", {"model": "nobody"}, 404, "not_found_error", "model 'nobody' not found"),
        ("POST", "/tokenize", {"content": {"a": 1}}, 400, WRONG, "content must be a text"),
        ("POST", "/tokenize", {"content": [True]}, 400, WRONG, "content must be a text"),
        ("POST", "/detokenize", {"tokens": [1 << 30]}, 400, WRONG, "not in the vocabulary"),
        ("POST", "/apply-template", {}, 400, WRONG, "'messages' is required"),
        ("POST", "/infill", {"input_prefix": "x"}, 400, WRONG, '"input_suffix" is required'),
        ("POST", "/infill", {**GAP, "input_extra": "x"}, 400, WRONG, "must be an array"),
        ("POST", "/infill", {**GAP, "input_extra": [{"filename": "x"}]}, 400, WRONG, '"text" field'),
        ("POST", "/infill", {**GAP, "input_extra": [{"text": "", "filename": 1}]}, 400, WRONG, "be a string"),
        ("POST", "/infill", {**GAP, "n_probs": 99}, 400, WRONG, "n_probs"),
        ("POST", "/infill", {**GAP, "grammar": "root ::= x", "json_schema": {}}, 400, WRONG, "not both"),
        ("POST", "/infill", {**GAP, "model": MODELS[0]}, 501, "not_supported_error", "does not support insert"),
        ("GET", "/props?model=nobody", None, 404, "not_found_error", "model 'nobody' not found"),
        ("GET", "/tokenize", None, 405, WRONG, "does not support the request's method"),
        ("GET", "/props/more", None, 404, "not_found_error", "File Not Found"),
    ],
)  # fmt: skip
def test_errors(
    client: httpx.Client, method: str, path: str, body: dict[str, Any] | None, status: int, kind: str, text: str
) -> None:
    """They have llama-server's envelope, whether or not a route was reached."""
    response = client.request(method, path, json=None if body is None else {"model": MODEL, **body})
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert (error["code"], error["type"]) == (status, kind)
    assert text in error["message"]


def test_a_body_that_is_too_large() -> None:
    """It is refused in the same envelope, and not read."""
    with running_server(max_body_bytes=2000) as server:
        response = httpx.post(f"{server.url}/tokenize", json={"model": MODEL, "content": "x" * 3000})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == 413


async def _unload(runtime: Any) -> None:
    for loaded in runtime.scheduler.loaded():
        await runtime.scheduler.unload(loaded.record)

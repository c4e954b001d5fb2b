"""`format`: answers constrained to JSON and to schemas, through the official client and over plain HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

MODEL = "smol:q4"
MESSAGES = [{"role": "user", "content": "hello"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["horse", "mule"]},
        "age": {"type": "integer", "minimum": 1, "maximum": 40},
        "names": {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 1, "maxItems": 2},
    },
    "required": ["kind", "age", "names"],
    "additionalProperties": False,
}


@pytest.fixture
def ollama_client(shared_server: Any) -> Iterator[ollama.Client]:
    with ollama.Client(host=shared_server.url) as client:
        yield client


def check(text: str | None) -> None:
    answer = json.loads(text or "")
    assert list(answer) == ["kind", "age", "names"]
    assert answer["kind"] in ("horse", "mule")
    assert 1 <= answer["age"] <= 40
    assert 1 <= len(answer["names"]) <= 2


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_schema_through_the_client(ollama_client: ollama.Client, seed: int) -> None:
    """Answers to chats and prompts, streamed or not, follow the schema and end with ``stop``."""
    options = {"seed": seed, "temperature": 1.0}
    reply = ollama_client.chat(MODEL, MESSAGES, format=SCHEMA, options=options)
    check(reply.message.content)
    assert reply.done_reason == "stop"
    parts = list(ollama_client.chat(MODEL, MESSAGES, format=SCHEMA, options=options, stream=True))
    assert "".join(part.message.content or "" for part in parts) == reply.message.content
    check(ollama_client.generate(MODEL, "hello", format=SCHEMA, options=options).response)
    check(ollama_client.generate(MODEL, "hello", raw=True, format=SCHEMA, options=options).response)


@pytest.mark.parametrize(
    "bound",
    ['"maximum": 9007199254740993', '"maximum": 1e300', '"minimum": -1e400', '"const": 123456789012345678901234567890'],
)
@pytest.mark.parametrize("route", ["chat", "generate"])
def test_a_number_that_cannot_be_exact(shared_server: Any, route: str, bound: str) -> None:
    """It is 400, never silently another number: for an integer of any size, and for an exponent beyond any double."""
    asked = '"messages": [{"role": "user", "content": "x"}]' if route == "chat" else '"prompt": "x"'
    body = f'{{"model": "{MODEL}", {asked}, "stream": false, "format": {{"type": "integer", {bound}}}}}'
    response = httpx.post(f"{shared_server.url}/api/{route}", content=body)
    assert response.status_code == 400, response.text
    assert "error" in response.json()


def test_json_through_the_client(ollama_client: ollama.Client) -> None:
    """With ``"json"`` the answer is an object, and complete within the token limit."""
    reply = ollama_client.chat(MODEL, MESSAGES, format="json", options={"num_predict": 12, "temperature": 0})
    assert isinstance(json.loads(reply.message.content or ""), dict)
    assert reply.done_reason == "stop"
    assert (reply.eval_count or 0) <= 12
    cut = ollama_client.chat(MODEL, MESSAGES, format="json", options={"num_predict": 1, "temperature": 0})
    assert (cut.message.content, cut.done_reason) == ("{", "length")


def test_log_probabilities_are_the_model_s_own(client: httpx.Client) -> None:
    """Log-probabilities are taken before the mask, so a forced token is improbable."""
    body = {"model": MODEL, "prompt": "x", "format": {"const": "zzz"}, "logprobs": True, "stream": False}
    reply = client.post("/api/generate", json=body).json()
    assert reply["response"] == '"zzz"'
    assert all(entry["logprob"] < -20 for entry in reply["logprobs"][:-1])


def test_what_is_not_held_to_is_told(client: httpx.Client) -> None:
    """Schema keywords without effect are listed in `ignored_options`."""
    schema = {"type": "array", "items": {"enum": [1]}, "maxItems": 2, "uniqueItems": True}
    reply = client.post("/api/generate", json={"model": MODEL, "prompt": "x", "format": schema, "stream": False})
    [ignored] = reply.json()["ignored_options"]
    assert "uniqueItems" in ignored


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
@pytest.mark.parametrize(
    ("value", "status", "text"),
    [
        ("xml", 500, r'invalid format: "\"xml\""; expected "json" or a valid JSON Schema object'),
        ([1], 500, 'invalid format: "[1]"; expected "json" or a valid JSON Schema object'),
        ({"type": "strin"}, 400, "the JSON schema cannot be used: Invalid type: strin"),
        (
            {"$ref": "#"},
            400,
            "the JSON schema cannot be used: no text can satisfy it: what it requires goes on without end",
        ),
    ],
)
def test_a_wrong_format(client: httpx.Client, path: str, value: Any, status: int, text: str) -> None:
    """It is an error before the answer begins, streamed or not; an unknown model is reported first."""
    asked = {"prompt": "x"} if path == "/api/generate" else {"messages": MESSAGES}
    for stream in (True, False):
        reply = client.post(path, json={"model": MODEL, "format": value, "stream": stream, **asked})
        assert (reply.status_code, reply.json()) == (status, {"error": text})
    assert client.post(path, json={"model": "nobody", "format": value, **asked}).status_code == 404


@pytest.mark.parametrize("value", [None, ""])
def test_no_format(client: httpx.Client, value: Any) -> None:
    """The values that many clients send when they want no format are accepted."""
    reply = client.post("/api/generate", json={"model": MODEL, "prompt": "x", "format": value, "stream": False})
    assert reply.json()["response"] == "the quick answer is: no"


def test_loading_looks_at_no_format(client: httpx.Client) -> None:
    """A request without a prompt only loads."""
    reply = client.post("/api/generate", json={"model": MODEL, "format": "json"})
    assert reply.json()["done_reason"] == "load"


@pytest.mark.parametrize("stream", [True, False])
def test_whether_an_answer_fits_is_told(client: httpx.Client, stream: bool) -> None:
    """The last object says so, and what is wrong if not: here, what no mask enforces, and an answer cut off."""

    def last(schema: Any, **options: Any) -> dict[str, Any]:
        body = {"model": MODEL, "prompt": "x", "format": schema, "stream": stream, "options": options}
        found: dict[str, Any] = json.loads(client.post("/api/generate", json=body).text.splitlines()[-1])
        return found

    assert last({"const": [1]})["format_valid"] is True
    twice = last(
        {
            "type": "array",
            "prefixItems": [{"const": 1}, {"const": 1}],
            "items": False,
            "minItems": 2,
            "uniqueItems": True,
        }
    )
    assert (twice["format_valid"], twice["format_problem"]) == (False, "$: the value has non-unique elements")
    cut = last({"enum": ["zzzzzzzzzz"]}, num_predict=2)
    assert cut["format_valid"] is False
    assert cut["format_problem"].startswith("the answer is not complete JSON")
    unknown = last({"$dynamicRef": "#x", "const": 1})
    assert "format_valid" not in unknown
    assert unknown["format_problem"] == "not checked: $dynamicRef is not followed"
    assert not {"format_valid", "format_problem"} & set(last(""))

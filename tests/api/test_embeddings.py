"""``/api/embed`` and ``/api/embeddings``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest

MODEL = "smol:q4"


def test_vectors_have_length_one_and_keep_their_order(client: httpx.Client) -> None:
    """One normalised vector per input, the same for the same text at any position."""
    both = client.post("/api/embed", json={"model": MODEL, "input": ["first", "second"]})
    assert both.headers["content-type"] == "application/json; charset=utf-8"
    reply = both.json()
    first, second = reply["embeddings"]
    assert math.hypot(*first) == pytest.approx(1, abs=1e-5)
    assert first != second
    assert client.post("/api/embed", json={"model": MODEL, "input": "second"}).json()["embeddings"] == [second]
    assert reply["model"] == MODEL
    assert reply["prompt_eval_count"] > 0
    assert reply["total_duration"] > 0


def test_dimensions_cut_and_scale_again(client: httpx.Client) -> None:
    """Asking for fewer dimensions gives the first ones, normalised; asking for more than it has changes nothing."""
    whole = client.post("/api/embed", json={"model": MODEL, "input": "x"}).json()["embeddings"][0]
    cut = client.post("/api/embed", json={"model": MODEL, "input": "x", "dimensions": 4}).json()["embeddings"][0]
    assert math.hypot(*cut) == pytest.approx(1, abs=1e-5)
    assert cut[0] / cut[1] == pytest.approx(whole[0] / whole[1], rel=1e-4)
    more = client.post("/api/embed", json={"model": MODEL, "input": "x", "dimensions": 9999}).json()["embeddings"][0]
    assert more == whole


@pytest.mark.parametrize("given", [{}, {"input": ""}, {"input": []}, {"input": None}])
def test_no_input_only_loads(client: httpx.Client, given: dict[str, Any]) -> None:
    """A request without a text loads the model and returns an empty list."""
    assert client.post("/api/embed", json={"model": MODEL, **given}).json() == {"model": MODEL, "embeddings": []}


@pytest.mark.parametrize("given", [5, True, {"a": 1}, ["x", 5]])
def test_other_inputs_are_refused(client: httpx.Client, given: Any) -> None:
    """Only texts can be embedded."""
    response = client.post("/api/embed", json={"model": MODEL, "input": given})
    assert (response.status_code, response.json()) == (400, {"error": "invalid input type"})


def test_an_input_beyond_the_context(client: httpx.Client) -> None:
    """A text that is too long is truncated unless the caller forbids it."""
    body = {"model": MODEL, "input": "word " * 50, "options": {"num_ctx": 8}}
    assert client.post("/api/embed", json=body).json()["prompt_eval_count"] == 8
    tiny = {**body, "options": {"num_ctx": 3}}  # chats need more, embeddings do not
    assert client.post("/api/embed", json=tiny).json()["prompt_eval_count"] == 3
    response = client.post("/api/embed", json={**body, "truncate": False})
    assert (response.status_code, response.json()) == (400, {"error": "the input length exceeds the context length"})


@pytest.mark.parametrize(("path", "status"), [("/api/embed", 400), ("/api/embeddings", 500)])
@pytest.mark.parametrize(
    ("engine", "text"),
    [
        ({"num_ctx": 1}, "input after truncation exceeds maximum context length"),
        ({"cuts_inputs": False}, "input exceeds maximum context length and cannot be truncated further"),
    ],
)
def test_an_input_that_cannot_be_cut(
    start_server: Callable[..., Any], engine: dict[str, Any], text: str, path: str, status: int
) -> None:
    """A model whose own tokens fill the context, and an engine that cuts nothing: Ollama's texts, even if the caller
    allows a cut."""
    with start_server(engine) as server:
        given = {"model": "other", "input": "word " * 5000, "prompt": "word " * 5000}
        response = httpx.post(f"{server.url}{path}", json=given, timeout=60)
        assert (response.status_code, response.json()) == (status, {"error": text})


def test_the_older_form(client: httpx.Client) -> None:
    """``/api/embeddings`` gives one vector, not normalised; without a prompt it is empty."""
    vector = client.post("/api/embeddings", json={"model": MODEL, "prompt": "some words here"}).json()["embedding"]
    normal = client.post("/api/embed", json={"model": MODEL, "input": "some words here"}).json()["embeddings"][0]
    length = math.hypot(*vector)
    assert length != pytest.approx(1, abs=1e-3)
    assert [value / length for value in vector] == pytest.approx(normal, abs=1e-5)
    assert client.post("/api/embeddings", json={"model": MODEL}).json() == {"embedding": []}


@pytest.mark.parametrize(("path", "status"), [("/api/embed", 400), ("/api/embeddings", 500)])
def test_vectors_that_no_json_can_carry(start_server: Callable[..., Any], path: str, status: int) -> None:
    """Such vectors are an error with Ollama's text, with the status that each route uses for failures."""
    with start_server({"infinite_vectors": True}) as server:
        response = httpx.post(f"{server.url}{path}", json={"model": MODEL, "input": "x", "prompt": "x"})
        assert (response.status_code, response.json()) == (status, {"error": "embedding contains NaN or Inf values"})


@pytest.mark.parametrize("path", ["/api/embed", "/v1/embeddings"])
def test_many_vectors_are_sent_in_parts(client: httpx.Client, path: str) -> None:
    """Both APIs write a few rows at a time, so that other requests have their turn; all are there in the end."""
    inputs = [f"text {number}" for number in range(100)]
    with client.stream("POST", path, json={"model": MODEL, "input": inputs}) as response:
        assert response.headers["transfer-encoding"] == "chunked"
        found = json.loads(response.read())
    vectors = found["embeddings"] if path == "/api/embed" else [one["embedding"] for one in found["data"]]
    assert len(vectors) == 100
    alone = client.post(path, json={"model": MODEL, "input": inputs[77]}).json()
    assert vectors[77] == (alone["embeddings"][0] if path == "/api/embed" else alone["data"][0]["embedding"])

"""``/api/tags``, ``/api/show``, ``/api/ps``, copy, delete, and each route's errors about names."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

LOCAL_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d)")


def test_tags_list_the_store(client: httpx.Client) -> None:
    """Every model has its names, time, size, digest and details."""
    models = {model["name"]: model for model in client.get("/api/tags").json()["models"]}
    assert {"smol:q4", "other:latest"} <= set(models)
    model = models["smol:q4"]
    assert model["model"] == "smol:q4"
    assert LOCAL_TIME.fullmatch(model["modified_at"])
    assert re.fullmatch("[0-9a-f]{64}", model["digest"])
    assert model["size"] > 0
    assert model["details"] == {
        "parent_model": "",
        "format": "fake",
        "family": "fake",
        "families": ["fake"],
        "parameter_size": "",
        "quantization_level": "",
    }


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
def test_head_answers_with_the_headers_of_get(client: httpx.Client, path: str) -> None:
    """HEAD is served where Ollama serves it, with the length and without the body."""
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for header in ("content-type", "content-length"):
        assert head.headers[header] == got.headers[header]


def test_the_root_and_the_version(client: httpx.Client) -> None:
    """Clients look for these texts; the key ``corral`` distinguishes Corral from Ollama."""
    assert client.get("/").text == "Ollama is running"
    assert client.get("/api/version").json() == {"version": "0.33.0", "corral": "9.9.9"}


def test_ps_tells_what_is_loaded(client: httpx.Client) -> None:
    """A loaded model has its size, context and expiry time; one that is kept forever expires in centuries."""
    client.post("/api/generate", json={"model": "other", "keep_alive": -1})
    models = {model["name"]: model for model in client.get("/api/ps").json()["models"]}
    model = models["other:latest"]
    assert (model["size"], model["size_vram"], model["context_length"]) == (1 << 20, 0, 4096)
    assert LOCAL_TIME.fullmatch(model["expires_at"])
    assert int(model["expires_at"][:4]) > 2300
    assert (model["corral"]["engine"], model["corral"]["runner"]) == ("fake", "thread")
    shown = client.post("/api/show", json={"model": "other"}).json()
    assert "exact" in shown["corral"]["features"]
    client.post("/api/generate", json={"model": "other", "keep_alive": 0})


def test_show_tells_everything(client: httpx.Client) -> None:
    """Texts, parameters and details are the manifest's; `name` works as an alias of `model`."""
    shown = client.post("/api/show", json={"name": "SMOL:Q4"}).json()
    assert shown["license"] == "MIT"
    assert re.search(r"^num_ctx +4096$", shown["parameters"], re.M)
    assert re.search(r'^stop +"###"$', shown["parameters"], re.M)
    assert "# FROM smol:q4\n\nFROM /" in shown["modelfile"]
    assert shown["details"]["family"] == "fake"
    assert isinstance(shown["model_info"], dict)
    assert LOCAL_TIME.fullmatch(shown["modified_at"])
    assert shown["capabilities"] == ["completion"]
    other = client.post("/api/show", json={"model": "other", "system": "Say less."}).json()
    assert other["system"] == "You are other."
    assert "SYSTEM Say less." in other["modelfile"]
    assert other["messages"] == [{"role": "user", "content": "hi"}]


def test_show_names_the_model_for_copilot(client: httpx.Client) -> None:
    """One client takes the base name for the model's name, so it gets what it asked for."""
    asked = {"model": "smol:q4"}
    shown = client.post("/api/show", json=asked, headers={"user-agent": "GitHubCopilotChat/0.30"}).json()
    assert shown["model_info"]["general.basename"] == "smol:q4"
    assert "general.basename" not in client.post("/api/show", json=asked).json()["model_info"]


def test_copy_and_delete(client: httpx.Client) -> None:
    """A copy answers under its new name until it is deleted; copying and deleting both return no body."""
    response = client.post("/api/copy", json={"source": "smol:q4", "destination": "me/copied"})
    assert (response.status_code, response.content) == (200, b"")
    assert client.post("/api/chat", json={"model": "me/copied", "messages": []}).json()["done_reason"] == "load"
    assert "content-type" not in response.headers
    client.post("/api/chat", json={"model": "me/copied", "keep_alive": 0})
    response = client.request("DELETE", "/api/delete", json={"name": "me/copied"})
    assert (response.status_code, response.content) == (200, b"")
    assert client.request("DELETE", "/api/delete", json={"model": "me/copied"}).status_code == 404
    assert client.post("/api/show", json={"model": "smol:q4"}).status_code == 200


def test_many_copies_at_once_all_succeed(client: httpx.Client) -> None:
    """Copies of one model to many names do not disturb each other."""
    from concurrent.futures import ThreadPoolExecutor

    def copy(number: int) -> int:
        return client.post("/api/copy", json={"source": "other", "destination": f"n{number}"}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(copy, range(16))) == {200}
    for number in range(16):
        client.request("DELETE", "/api/delete", json={"model": f"n{number}"})


ABSENT = {
    "/api/generate": (404, "model '{}' not found"),
    "/api/chat": (404, "model '{}' not found"),
    "/api/embed": (404, 'model "{}" not found, try pulling it first'),
    "/api/embeddings": (404, 'model "{}" not found, try pulling it first'),
    "/api/show": (404, "model '{}:latest' not found"),
    "/api/delete": (404, "model '{}' not found"),
}
EMPTY = {
    "/api/generate": (404, "model '' not found"),
    "/api/chat": (400, "model is required"),
    "/api/embed": (404, "model '' not found"),
    "/api/embeddings": (400, "model is required"),
    "/api/show": (400, "model is required"),
    "/api/delete": (400, "model is required"),
}


def ask(client: httpx.Client, path: str, body: Any) -> tuple[int, str]:
    response = client.request("DELETE" if path == "/api/delete" else "POST", path, json=body)
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    return response.status_code, response.json()["error"]


@pytest.mark.parametrize("path", ABSENT)
@pytest.mark.parametrize("work", [{}, {"prompt": "x", "input": "x", "messages": [{"role": "user", "content": "x"}]}])
def test_a_model_that_is_absent(client: httpx.Client, path: str, work: Any) -> None:
    """Each route has its own error text, with the name as it was typed."""
    status, text = ABSENT[path]
    assert ask(client, path, {"model": "Nobody", **work}) == (status, text.format("Nobody"))
    assert ask(client, path, {"model": "Nobody", "keep_alive": 0, **work})[0] == status


@pytest.mark.parametrize("path", EMPTY)
def test_a_model_that_is_not_named(client: httpx.Client, path: str) -> None:
    """Each route has its own error text for an empty name."""
    assert ask(client, path, {}) == EMPTY[path]
    status, text = EMPTY[path]
    assert ask(client, path, {"model": "  "}) == (status, text.replace("''", "'  '"))


@pytest.mark.parametrize("path", EMPTY)
def test_a_name_outside_the_grammar(client: httpx.Client, path: str) -> None:
    """An invalid name is 400; delete repeats it."""
    text = 'name "a b" is invalid' if path == "/api/delete" else "invalid model name"
    assert ask(client, path, {"model": "a b"}) == (400, text)


def test_names_of_a_copy(client: httpx.Client) -> None:
    """Copy says which of its two names is wrong."""
    assert ask(client, "/api/copy", {}) == (400, 'source "" is invalid')
    assert ask(client, "/api/copy", {"source": "a b", "destination": "x"}) == (400, 'source "a b" is invalid')
    assert ask(client, "/api/copy", {"source": "a", "destination": "/x"}) == (400, 'destination "/x" is invalid')
    assert ask(client, "/api/copy", {"source": "a", "destination": "b"}) == (404, 'model "a" not found')


@pytest.mark.parametrize("path", [*EMPTY, "/api/copy"])
def test_a_body_that_is_missing(client: httpx.Client, path: str) -> None:
    """No route accepts an empty body."""
    response = client.request("DELETE" if path == "/api/delete" else "POST", path, content=b"")
    assert (response.status_code, response.json()) == (400, {"error": "missing request body"})

"""What Ollama's routes answer, case by case: status, text, and which check comes first."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

M = "smol:q4"
NOT_FOUND = "model 'Nope' not found"
TRY_PULLING = 'model "Nope" not found, try pulling it first'
CLOUD = "ollama cloud is disabled: remote model is unavailable"
RAW = "raw mode does not support template, system, or context"
THINK = 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'
HI = [{"role": "user", "content": "hi"}]
G, C, E, L = "/api/generate", "/api/chat", "/api/embed", "/api/embeddings"

REFUSED: list[tuple[str, Any, int, str]] = [
    (G, "x", 400, "invalid character 'x' looking for beginning of value"),
    (C, "{", 400, "unexpected EOF"),
    (E, "[]", 400, "json: cannot unmarshal array into Go value of type api.EmbedRequest"),
    (L, " \n", 400, "missing request body"),
    (G, "null", 404, "model '' not found"),
    (C, "{} trailing", 400, "model is required"),
    (E, {}, 404, "model '' not found"),
    (L, {}, 400, "model is required"),
    (G, {"model": "a b"}, 400, "invalid model name"),
    (G, {"MODEL": " Nope "}, 404, "model ' Nope ' not found"),
    (C, {"model": "Nope"}, 404, NOT_FOUND),
    (E, {"model": "Nope"}, 404, TRY_PULLING),
    (L, {"model": "Nope"}, 404, TRY_PULLING),
    (G, {"model": "Nope:20b-cloud"}, 403, CLOUD),
    (C, {"model": "x:cloud:local"}, 400, 'use either :local or :cloud, not both: "x:cloud:local"'),
    (C, {"model": "x:local:local"}, 400, 'use either :local or :cloud, not both: "x:local:local"'),
    (G, {"model": ":cloud"}, 400, "invalid model name"),
    (G, {"model": "  "}, 404, "model '  ' not found"),
    (E, {"model": "https://ns/m"}, 400, "invalid model name"),
    (E, {"input": 5}, 404, "model '' not found"),
    (E, {"model": "Nope:cloud", "input": 5}, 403, CLOUD),
    (G, {"model": M, "suffix": "y"}, 400, f"registry.ollama.ai/library/{M} does not support insert"),
    (C, {"model": M, "tools": [{"function": {"name": "f"}}]}, 400,
     f"registry.ollama.ai/library/{M} does not support tools"),
    (G, {"top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
    (G, {"model": "Nope", "think": 5, "top_logprobs": 21}, 400, THINK),
    (G, {"model": "Nope", "keep_alive": "300"}, 400, 'time: missing unit in duration "300"'),
    (C, {"model": M, "keep_alive": True}, 400, "Unsupported type: 'bool'"),
    (G, {"model": "Nope", "raw": True, "system": "x"}, 404, NOT_FOUND),
    (G, {"model": M, "raw": True, "system": "x", "think": True}, 400, RAW),
    (G, {"model": M.upper(), "prompt": "x", "think": "high"}, 400, '"SMOL:Q4" does not support thinking'),
    (G, {"model": "embedder", "prompt": "x"}, 400, '"embedder" does not support generate'),
    (C, {"model": "embedder", "messages": HI}, 400, '"embedder" does not support chat'),
    (G, {"model": M, "prompt": "x", "suffix": "y"}, 400, f"registry.ollama.ai/library/{M} does not support insert"),
    (C, {"model": M, "messages": HI, "tools": [{"type": "function", "function": {"name": "f"}}]}, 400,
     f"registry.ollama.ai/library/{M} does not support tools"),
    (C, {"model": M, "messages": [{"role": "user", "content": ["a"]}]}, 400,
     "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string"),
    (G, {"model": M, "prompt": "x", "images": ["!!"]}, 400, "illegal base64 data at input byte 0"),
    (G, {"model": M, "prompt": "x", "format": True}, 500,
     'invalid format: "true"; expected "json" or a valid JSON Schema object'),
    (G, {"model": M, "options": {"top_k": "a"}}, 500, 'option "top_k" must be of type integer'),
    (C, {"model": M, "options": {"temperature": True}}, 500, 'option "temperature" must be of type float32'),
    (E, {"model": M, "options": {"use_mmap": 1}}, 500, 'option "use_mmap" must be of type boolean'),
    (L, {"model": M, "options": {"stop": [1]}}, 500, 'option "stop" must be of an array of strings'),
    (E, {"model": "Nope", "input": ["a", 5]}, 400, "invalid input type"),
    (E, {"model": M, "input": "a b", "options": {"num_ctx": 0}}, 400,
     "input after truncation exceeds maximum context length"),
    (E, {"model": M, "input": "a b", "options": {"num_ctx": 1}}, 400,
     "input after truncation exceeds maximum context length"),
    (E, {"model": M, "input": "a b " * 5000, "truncate": False}, 400, "the input length exceeds the context length"),
]  # fmt: skip

UNREADABLE: list[tuple[str, Any, str]] = [
    (C, {"messages": [1]}, "number into Go struct field ChatRequest.messages of type api.Alias"),
    (C, {"messages": [{"content": 1}]}, "number into Go struct field ChatRequest.messages.content of type string"),
    (C, {"messages": [{"images": "x"}]},
     "string into Go struct field ChatRequest.messages.images of type []api.ImageData"),
    (C, {"messages": [{"tool_calls": [{"function": {"index": 1.5}}]}]},
     "number 1.5 into Go struct field ChatRequest.messages.tool_calls.function.index of type int"),
    (C, {"tools": {}}, "object into Go struct field ChatRequest.tools of type api.Tools"),
    (C, {"tools": [1]}, "number into Go struct field ChatRequest.tools of type api.Tool"),
    (C, {"tools": [{"type": 1}]}, "number into Go struct field Tool.tools.type of type string"),
    (C, {"tools": [{"function": 1}]}, "number into Go struct field Tool.tools.function of type api.ToolFunction"),
    (C, {"tools": [{"function": {"parameters": "x"}}]},
     "string into Go struct field ToolFunction.tools.function.parameters of type api.ToolFunctionParameters"),
    (G, {"images": [1]}, "number into Go struct field GenerateRequest.images of type api.ImageData"),
    (G, {"context": [1, 2.5]}, "number 2.5 into Go struct field GenerateRequest.context of type int"),
    (G, {"_debug_render_only": 1}, "number into Go struct field GenerateRequest._debug_render_only of type bool"),
    ("/api/show", {"template": 1}, "number into Go struct field ShowRequest.template of type string"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "text"), UNREADABLE)
def test_what_cannot_be_decoded(client: httpx.Client, path: str, body: Any, text: str) -> None:
    """Errors name Go's structs and types, at every depth."""
    response = client.post(path, json=body)
    assert (response.status_code, response.json()) == (400, {"error": f"json: cannot unmarshal {text}"})


OTHERS: list[tuple[str, str, int, str, Any]] = [
    ("GET", "/api/status", 200, "application/json; charset=utf-8", {"cloud": {"disabled": True, "source": "config"}}),
    ("POST", "/api/me", 503, "application/json; charset=utf-8", {"error": "account unavailable"}),
    ("POST", "/api/signout", 401, "application/json; charset=utf-8", {"error": "you are not currently signed in"}),
    ("DELETE", "/api/user/keys/a", 401, "application/json; charset=utf-8",
     {"error": "you are not currently signed in"}),
    ("GET", "/api/experimental/model-recommendations", 200, "application/json; charset=utf-8",
     {"recommendations": []}),
    ("GET", "/", 200, "text/plain; charset=utf-8", "Ollama is running"),
    ("GET", "/nope", 404, "text/plain", "404 page not found"),
    ("PUT", C, 405, "text/plain", "405 method not allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "status", "kind", "body"), OTHERS)
def test_other_routes(client: httpx.Client, method: str, path: str, status: int, kind: str, body: Any) -> None:
    """Status, content type and body are Ollama's, also of routes that only ollama.com could serve."""
    response = client.request(method, path)
    assert (response.status_code, response.headers["content-type"]) == (status, kind)
    assert (response.json() if "json" in kind else response.text) == body
    assert status != 405 or response.headers["allow"] == "POST"


def test_a_name_with_the_tag_cloud(client: httpx.Client) -> None:
    """Copy and delete take names as they are: what has the tag ``cloud`` can be removed."""
    assert client.post("/api/copy", json={"source": M, "destination": "far:20b-cloud"}).status_code == 200
    assert client.request("DELETE", "/api/delete", json={"model": "far:20b-cloud"}).status_code == 200
    response = client.request("DELETE", "/api/delete", json={"model": "far:cloud"})
    assert (response.status_code, response.json()) == (404, {"error": "model 'far:cloud' not found"})


@pytest.mark.parametrize(("path", "body", "status", "text"), REFUSED)
def test_what_is_refused(client: httpx.Client, path: str, body: Any, status: int, text: str) -> None:
    """The first check that fails decides, and its text is Ollama's to the letter, whatever the content type says."""
    content = body if isinstance(body, str) else json.dumps(body)
    response = client.post(path, content=content, headers={"content-type": "text/plain"})
    assert (response.status_code, response.json()) == (status, {"error": text})
    assert response.headers["content-type"] == "application/json; charset=utf-8"


ALWAYS = {"model", "created_at", "done"}
METRICS = {"done_reason", "total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count",
           "eval_duration"}  # fmt: skip
KEYS: list[tuple[str, Any, set[str]]] = [
    (G, {"keep_alive": "0s", "raw": True, "system": "x"}, ALWAYS | {"response", "done_reason"}),
    (G, {}, ALWAYS | {"response", "done_reason"}),
    (C, {"messages": [], "keep_alive": 0}, ALWAYS | {"message", "done_reason"}),
    (C, {}, ALWAYS | {"message", "done_reason"}),
    (G, {"prompt": "x", "stream": False}, ALWAYS | METRICS | {"response", "context"}),
    (G, {"prompt": "x", "raw": True, "stream": False, "think": False, "format": ""}, ALWAYS | METRICS | {"response"}),
    (C, {"messages": HI, "stream": False}, ALWAYS | METRICS | {"message"}),
    (C, {"messages": HI, "stream": False, "logprobs": True}, ALWAYS | METRICS | {"message", "logprobs"}),
    (C, {"messages": HI, "_debug_render_only": True}, ALWAYS | {"message", "_debug_info"}),
    (G, {"prompt": "x", "_debug_render_only": True}, ALWAYS | {"response", "_debug_info"}),
    (E, {}, {"model", "embeddings"}),
    (E, {"input": ""}, {"model", "embeddings"}),
    (E, {"input": ["a", "b"], "dimensions": 3},
     {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}),
    (L, {}, {"embedding"}),
    (L, {"prompt": "x"}, {"embedding"}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "keys"), KEYS)
def test_keys_of_answers(client: httpx.Client, path: str, body: Any, keys: set[str]) -> None:
    """Answers have Ollama's keys and no others, except `cached_tokens` and the like, which are absent when zero."""
    found = client.post(path, json={"model": M, **body}).raise_for_status().json()
    assert set(found) - {"cached_tokens"} == keys
    if "message" in keys:
        assert set(found["message"]) == {"role", "content"}


@pytest.mark.parametrize(("path", "body"), [(G, {"prompt": "x"}), (C, {"messages": HI})])
def test_keys_of_lines(client: httpx.Client, path: str, body: Any) -> None:
    """Every line has the text, also when it is empty; only the last one has the metrics."""
    response = client.post(path, json={"model": M, **body})
    *lines, last = [json.loads(line) for line in response.text.splitlines()]
    text = "response" if path == G else "message"
    assert response.headers["content-type"] == "application/x-ndjson"
    assert all(set(line) == ALWAYS | {text} and not line["done"] for line in lines)
    assert set(last) - {"cached_tokens", "context"} == ALWAYS | METRICS | {text}
    assert last["done"] is True

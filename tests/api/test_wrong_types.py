"""Fields of wrong types: a client's mistake is never an error of the server, whichever route it is sent to."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

NESTED: dict[str, Any] = {name: [] for name in ("effort", "format", "name", "role", "schema", "tools", "type")}
VALUES: tuple[Any, ...] = (None, True, 5, "x", [None], [[]], {"a": []}, NESTED, {**NESTED, "format": True}, [NESTED])
MESSAGES = [{"role": "user", "content": "x"}]
BODIES: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "x", "stream": False},
    "/api/chat": {"messages": MESSAGES, "stream": False},
    "/api/embed": {"input": "x"},
    "/api/embeddings": {"prompt": "x"},
    "/api/rerank": {"query": "x", "documents": ["y"]},
    "/api/tokenize": {"content": "x"},
    "/api/detokenize": {"tokens": [1]},
    "/tokenize": {"content": "x"},
    "/apply-template": {"messages": MESSAGES},
    "/infill": {"input_prefix": "x", "input_suffix": "y"},
    "/v1/rerank": {"query": "x", "documents": ["y"]},
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "x"},
    "/v1/embeddings": {"input": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
}


@pytest.mark.parametrize("path", list(BODIES))
def test_no_field_is_an_error_of_the_server(shared_server: Any, path: str) -> None:
    """Every field of the route's body, with values of every kind, deep ones included."""
    described = httpx.get(f"{shared_server.url}/openapi.json").json()
    schema = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    fields = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]
    assert len(fields) >= 4
    failed = []
    with httpx.Client(base_url=shared_server.url) as client:
        for field in fields:
            for value in VALUES:
                body = {"model": "smol:q4", "options": {"num_predict": 1}, **BODIES[path], field: value}
                if field == "stream" and value is True:
                    continue
                response = client.post(path, json=body)
                ollamas = field == "format" and "invalid format" in response.text  # its own status is 500
                if response.status_code >= 500 and response.status_code != 501 and not ollamas:
                    failed.append((field, value, response.text))
    assert failed == []

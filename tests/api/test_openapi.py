"""The served API document has everything that Ollama's own has, and every status that a route can answer."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from corral.api.http.errors import STATUSES
from corral.api.http.ollama.dialect import OLLAMA

OLLAMAS = json.loads((Path(__file__).parents[1] / "data" / "ollama_openapi.json").read_text())
CASES_PER_ROUTE = 12
MODEL = "smol:q4"


@pytest.fixture(scope="module")
def document(shared_server: Any) -> Any:
    return httpx.get(f"{shared_server.url}/openapi.json").json()


@pytest.mark.parametrize("operation", [*OLLAMAS["operations"]])
def test_every_operation_of_ollama_is_served(document: Any, operation: str) -> None:
    """Paths and operation ids are Ollama's, so that generated clients have the same methods."""
    verb, path = operation.split()
    assert document["paths"][path][verb.lower()]["operationId"] == OLLAMAS["operations"][operation]


@pytest.mark.parametrize("name", [*OLLAMAS["schemas"]])
def test_every_schema_of_ollama_is_there(document: Any, name: str) -> None:
    """Properties, types, enums and defaults are Ollama's or more; requests require the same fields."""
    wanted = OLLAMAS["schemas"][name]
    component, _, inner = name.partition(".")
    found = document["components"]["schemas"][component]
    if inner:
        found = found["properties"][inner]
    properties = found["properties"]
    assert set(wanted["properties"].split()) <= set(properties)
    if "required" in wanted:
        assert sorted(found["required"]) == sorted(wanted["required"].split())
    for field, default in wanted.get("defaults", {}).items():
        assert properties[field]["default"] == default
    for field, kind in wanted.get("types", {}).items():
        assert properties[field]["type"] == kind
    for field, values in wanted.get("enums", {}).items():
        choices = properties[field].get("oneOf", [properties[field]])
        assert any(choice.get("enum") == values for choice in choices)


def test_every_reference_leads_somewhere(document: Any) -> None:
    """No schema names a component that the document lacks."""
    references = {part.split('"')[0] for part in json.dumps(document).split('"#/components/schemas/')[1:]}
    assert references <= set(document["components"]["schemas"])
    assert {"ModelOptions", "ChatMessage", "ToolCall", "ErrorResponse"} <= references


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/embed", "/api/embeddings"])
def test_every_kind_of_error_has_a_documented_status(document: Any, path: str) -> None:
    """What a model, an engine or an upstream can raise is answered with a status that the document has."""
    documented = set(document["paths"][path]["post"]["responses"])
    assert {str(status) for status in (*STATUSES.values(), *OLLAMA.statuses.values())} <= documented


def _values(schema: Any, schemas: Any, chance: random.Random, depth: int = 0) -> Any:
    """A value that fits `schema`, or sometimes anything else."""
    if chance.random() < 0.06:
        return chance.choice([None, -1, 1e30, "", "\x00\u2028", [], {}, [None], {"a": []}, True])
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    if choices := schema.get("oneOf", schema.get("anyOf")):
        return _values(chance.choice(choices), schemas, chance, depth)
    if "enum" in schema:
        return chance.choice(schema["enum"])
    match schema.get("type"):
        case "object":
            names = schema.get("properties", {})
            chosen = [
                name for name in names if name in schema.get("required", ()) or chance.random() < 0.4 - 0.1 * depth
            ]
            return {name: _values(names[name], schemas, chance, depth + 1) for name in chosen}
        case "array":
            return [_values(schema.get("items", {}), schemas, chance, depth + 1) for _ in range(chance.randrange(3))]
        case "integer":
            return chance.choice([0, 1, -1, 7, 2**31, 2**63])
        case "number":
            return chance.choice([0, 0.5, -1.5, 1e300])
        case "boolean":
            return chance.random() < 0.5
        case "null":
            return None
    return chance.choice(["", "x", "5m", "json", "\ud800".encode("utf-8", "replace").decode(), "\u00e9" * 20])


@pytest.mark.parametrize(
    "path", ["/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/show", "/api/experimental/web_search"]
)
def test_requests_that_fit_the_document(document: Any, client: httpx.Client, path: str) -> None:
    """Whatever is sent, the status is documented, and no error comes from an unhandled exception; 500 is only for
    mistyped options and formats, as in Ollama.
    """
    operation = document["paths"][path]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    for seed in range(CASES_PER_ROUTE):
        body = _values(schema, document["components"]["schemas"], random.Random(f"{path} {seed}"))
        if isinstance(body, dict) and seed % 4:
            body["model"] = MODEL
        response = client.post(path, json=body)
        assert str(response.status_code) in operation["responses"], (body, response.text)
        assert "internal server error" not in response.text, body
        if response.status_code >= 500:
            text = response.json()["error"]
            assert " must be of " in text or text.startswith("invalid format: "), (body, text)


def test_parameters_of_queries_are_documented(document: Any) -> None:
    """A route that reads its query says what may stand in it, beside what is in its path."""
    listed = document["paths"]["/v1/responses/{response_id}/input_items"]["get"]["parameters"]
    assert {one["name"]: one["in"] for one in listed} == {
        "response_id": "path",
        **dict.fromkeys(("order", "limit", "after", "before"), "query"),
    }
    assert [one["schema"]["default"] for one in listed if one["name"] == "limit"] == [20]

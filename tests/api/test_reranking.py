"""Reranking at all of its paths, with a tiny cross-encoder in llama.cpp behind them."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from corral.adapters.engines.fake import SPEC as FAKE
from corral.adapters.engines.llama_cpp.spec import SPEC as LLAMA_CPP
from corral.adapters.engines.onnx_embeddings.spec import SPEC as ONNX
from corral.core.models.names import parse_name
from tests.tiny_cross_encoder import CONTEXT, DOCUMENTS, QUERY, pair_ids, reference_scores, write_tiny_cross_encoder
from tests.tiny_onnx_cross_encoder import onnx_reference_scores, write_onnx_cross_encoder

pytest.importorskip("llama_cpp")

PATHS = ("/api/rerank", "/v1/rerank", "/v2/rerank", "/rerank")
RERANKER = "tiny-reranker"
THREE = ["paris is the capital of france", "a horse in the field", "rome is old"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, start_server: Callable[..., Any]) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("reranking")
    weights = write_tiny_cross_encoder(folder / "tiny.gguf").read_bytes()
    with start_server(engines=(LLAMA_CPP, FAKE), root=folder / "store") as server:
        server.call(lambda runtime: server.world.add(RERANKER, data=weights))
        yield server


@pytest.fixture
def client(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def ask(client: httpx.Client, path: str = "/api/rerank", **body: Any) -> Any:
    response = client.post(path, json={"model": RERANKER, "query": QUERY, **body})
    assert response.status_code == 200, response.text
    return response.json()


def message(response: httpx.Response) -> str:
    """The text of an error, in the envelope of its path."""
    error = response.json()["error"]
    return str(error["message"] if response.request.url.path.startswith("/v1/") else error)


@pytest.mark.parametrize("path", PATHS)
def test_a_hundred_documents(client: httpx.Client, path: str) -> None:
    """The best comes first; indices are those of the request, and scores those of NumPy, as probabilities."""
    reply = ask(client, path, documents=DOCUMENTS)
    expected = np.array(reference_scores(QUERY, DOCUMENTS))
    assert [one["index"] for one in reply["results"]] == np.argsort(-expected).tolist()
    scores = [one["relevance_score"] for one in reply["results"]]
    assert scores == pytest.approx(sorted(1 / (1 + np.exp(-expected)), reverse=True), abs=1e-4)
    count = sum(len(pair_ids(QUERY, document)) for document in DOCUMENTS)
    assert reply["usage"] == {"prompt_tokens": count, "total_tokens": count}
    assert reply["meta"] == {"tokens": {"input_tokens": count}}
    assert (reply["model"], reply["object"], reply["prompt_eval_count"]) == (RERANKER, "list", count)
    assert reply["total_duration"] > 0


@pytest.mark.parametrize("top_n", [1, 2, 3, 50])
def test_top_n_are_the_best(client: httpx.Client, top_n: int) -> None:
    """So many, or all if there are fewer."""
    everything = ask(client, documents=THREE)["results"]
    assert ask(client, documents=THREE, top_n=top_n)["results"] == everything[:top_n]


def test_documents_come_back_if_asked_for(client: httpx.Client) -> None:
    """As objects with a text, whatever they were sent as; otherwise they stay away."""
    objects = [{"text": text, "title": "t"} for text in THREE]
    reply = ask(client, documents=objects, return_documents=True)
    assert all(one["document"] == {"text": THREE[one["index"]]} for one in reply["results"])
    assert all("document" not in one for one in ask(client, documents=THREE)["results"])
    assert ask(client, documents=objects, query={"text": QUERY})["results"] == ask(client, documents=THREE)["results"]


def test_raw_scores_are_logits(client: httpx.Client) -> None:
    """On request, in place of probabilities."""
    raw = ask(client, documents=THREE, raw_scores=True)["results"]
    usual = ask(client, documents=THREE)["results"]
    for one, other in zip(raw, usual, strict=True):
        assert other["relevance_score"] == pytest.approx(1 / (1 + math.exp(-one["relevance_score"])), abs=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_tei(client: httpx.Client, path: str) -> None:
    """A request with `texts` is answered as TEI does: with a list, and without a model if only one can rerank."""
    plain = client.post(path, json={"query": QUERY, "texts": THREE}).json()
    usual = ask(client, documents=THREE)["results"]
    assert plain == [{"index": one["index"], "score": one["relevance_score"]} for one in usual]
    body = {"query": QUERY, "texts": THREE, "raw_scores": True, "return_text": True}
    full = client.post(path, json=body).json()
    assert [one["text"] for one in full] == [THREE[one["index"]] for one in plain]
    assert full[0]["score"] == pytest.approx(max(reference_scores(QUERY, THREE)), abs=2e-4)


def test_long_documents_are_cut_but_not_for_tei(client: httpx.Client) -> None:
    """`truncate` decides; without it, a document is cut, and one of TEI's is refused with both sizes."""
    long = "paris " * 2 * CONTEXT
    assert ask(client, documents=[long])["usage"]["total_tokens"] == CONTEXT
    assert ask(client, documents=[long], options={"num_ctx": 20})["usage"]["total_tokens"] == 20
    whole = len(pair_ids(QUERY, long))
    bodies: list[dict[str, Any]] = [
        {"documents": [long], "truncate": False},
        {"documents": [long], "truncation": False},
        {"texts": [long]},
    ]
    for body in bodies:
        refused = client.post("/v1/rerank", json={"model": RERANKER, "query": QUERY, **body})
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "context_length_exceeded"
        assert f"{whole} tokens, but the context holds {CONTEXT}" in message(refused)
    assert len(client.post("/rerank", json={"query": QUERY, "texts": [long], "truncate": True}).json()) == 1


def test_an_empty_document_has_a_score(client: httpx.Client) -> None:
    """It is a document like any other."""
    reply = ask(client, documents=["", "paris"], raw_scores=True)["results"]
    expected = reference_scores(QUERY, ["", "paris"])
    assert {one["index"]: one["relevance_score"] for one in reply} == pytest.approx(dict(enumerate(expected)), abs=2e-4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({}, "documents is required, with at least one text"),
        ({"documents": []}, "documents is required, with at least one text"),
        ({"texts": []}, "texts is required, with at least one text"),
        ({"documents": ["a"], "texts": ["a"]}, "exclude each other"),
        ({"documents": ["a", 5]}, 'documents[1] must be a text, or an object with a "text"'),
        ({"documents": [{"image": "x"}]}, 'documents[0] must be a text, or an object with a "text"'),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a"], "query": ""}, "query must not be empty"),
        ({"documents": ["a"], "query": None}, 'query must be a text, or an object with a "text"'),
        ({"documents": ["a"], "top_n": 0}, "top_n must be at least 1, not 0"),
        ({"documents": ["a"], "top_n": "2"}, "top_n"),
        ({"documents": ["a"] * 16_385}, "at most 16384 are accepted"),
    ],
)
def test_wrong_requests(client: httpx.Client, path: str, body: dict[str, Any], complaint: str) -> None:
    """Each is refused with what is wrong, in the envelope of its path."""
    response = client.post(path, json={"model": RERANKER, "query": QUERY, **body})
    assert response.status_code == 400
    assert complaint in message(response)


@pytest.mark.parametrize("path", PATHS)
def test_models_that_cannot(client: httpx.Client, path: str) -> None:
    """A model that is not there is 404; one that is no reranker is 400, with the name of one that is."""
    missing = client.post(path, json={"model": "nobody", "query": "q", "documents": ["a"]})
    assert (missing.status_code, message(missing)) == (404, "model 'nobody' not found")
    unable = client.post(path, json={"model": "smol:q4", "query": "q", "documents": ["a"]})
    assert unable.status_code == 400
    assert message(unable) == f'"smol:q4" does not support rerank; use a reranker: {RERANKER}:latest'


def test_a_reranker_does_nothing_else(client: httpx.Client) -> None:
    """It neither chats nor makes vectors, and says what it can do."""
    chat = client.post("/api/chat", json={"model": RERANKER, "messages": [{"role": "user", "content": "hi"}]})
    assert (chat.status_code, chat.json()) == (400, {"error": f'"{RERANKER}" does not support chat'})
    assert client.post("/api/embed", json={"model": RERANKER, "input": "hi"}).status_code == 400
    assert client.post("/api/show", json={"model": RERANKER}).json()["capabilities"] == ["rerank"]


def test_fields_without_effect_are_named(client: httpx.Client) -> None:
    """In the header, whatever API they come from."""
    response = client.post(
        "/v1/rerank",
        json={"model": RERANKER, "query": "q", "documents": ["a"], "rank_fields": ["x"], "options": {"odd": 1}},
    )
    assert response.headers["x-corral-ignored"] == "rank_fields, odd"


def test_without_a_model_there_must_be_one_reranker(server: Any, client: httpx.Client) -> None:
    """With several, the error names them."""
    server.call(lambda runtime: server.world.add("other-reranker", capabilities=("rerank",)))
    response = client.post("/rerank", json={"query": "q", "texts": ["a"]})
    assert response.status_code == 400
    assert "model is required" in message(response)
    assert RERANKER in message(response)
    assert client.post("/rerank", json={"model": "other-reranker", "query": "q", "texts": ["a"]}).status_code == 200
    client.request("DELETE", "/api/delete", json={"model": "other-reranker"})


def test_a_cross_encoder_in_onnx(start_server: Callable[..., Any], tmp_path: Path) -> None:
    """A folder that was imported ranks as well: the best of a hundred documents, with NumPy's scores."""
    for module in ("onnx", "onnxruntime", "tokenizers"):
        pytest.importorskip(module)
    folder = write_onnx_cross_encoder(tmp_path / "folder")
    with start_server(engines=(ONNX,), root=tmp_path / "store") as server:
        server.call(lambda runtime: runtime.catalog.import_file(folder, parse_name("tiny-onnx")))
        body = {"model": "tiny-onnx", "query": QUERY, "documents": DOCUMENTS, "top_n": 5, "raw_scores": True}
        response = httpx.post(f"{server.url}/v1/rerank", json=body, timeout=60)
        shown = httpx.post(f"{server.url}/api/show", json={"model": "tiny-onnx"}, timeout=60)
    assert response.status_code == 200, response.text
    expected = np.array(onnx_reference_scores(QUERY, DOCUMENTS))
    best = np.argsort(-expected)[:5]
    results = response.json()["results"]
    assert [one["index"] for one in results] == best.tolist()
    assert [one["relevance_score"] for one in results] == pytest.approx(expected[best], abs=1e-4)
    assert shown.json()["capabilities"] == ["rerank"]


def test_a_client_that_goes_away(
    start_server: Callable[..., Any], within: Callable[[float, Callable[[], bool]], bool]
) -> None:
    """Its request ends within a step."""
    with start_server({"step_delay_s": 0.5}) as server:
        server.call(lambda runtime: server.world.add(RERANKER, capabilities=("rerank",)))
        data = json.dumps({"model": RERANKER, "query": QUERY, "documents": THREE}).encode()
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        head = f"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        assert within(30, lambda: server.active() == 1)
        connection.close()
        assert within(30, lambda: server.active() == 0)

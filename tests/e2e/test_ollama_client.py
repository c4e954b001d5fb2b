"""The official client, unmodified, against a real server with real weights."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import ollama
import pytest

pytestmark = pytest.mark.native

MODEL = "smollm2-135m-instruct:q4_1"
SKY = [{"role": "user", "content": "Why is the sky blue?"}]
SHORT = {"temperature": 0, "num_predict": 24}


@pytest.fixture
def client(server: Any) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as client:
        yield client


def test_what_there_is(client: ollama.Client) -> None:
    """The model is listed, shown with what its weights say, and seen running once it has answered."""
    [listed] = [model for model in client.list().models if model.model == MODEL]
    assert listed.size is not None
    assert listed.size > 90_000_000
    shown = client.show(MODEL)
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.capabilities is not None
    assert "completion" in shown.capabilities
    client.generate(MODEL, "Hello", options=SHORT)
    [running] = [model for model in client.ps().models if model.model == MODEL]
    assert running.context_length == 4096


def test_an_answer_makes_sense(client: ollama.Client) -> None:
    """Real weights know the capital of France and can explain the sky."""
    assert " Paris" in str(client.generate(MODEL, "The capital of France is", raw=True, options=SHORT).response)
    reply = client.chat(MODEL, SKY, options=SHORT)
    assert len((reply.message.content or "").split()) > 8
    assert (reply.done_reason, reply.eval_count) == ("length", 24)


def test_a_stream_is_the_same_answer_in_pieces(client: ollama.Client) -> None:
    """A token at a time, with the same text as a whole."""
    parts = list(client.chat(MODEL, SKY, stream=True, options=SHORT))
    assert len(parts) > 12
    text = "".join(part.message.content or "" for part in parts)
    assert text == client.chat(MODEL, SKY, options=SHORT).message.content
    pieces = client.generate(MODEL, "The capital of France is", raw=True, stream=True, options=SHORT)
    assert "".join(piece.response or "" for piece in pieces).startswith(" Paris")


def test_embeddings(client: ollama.Client) -> None:
    """Similar sentences have similar vectors, of length 1."""
    cat, kitten, tax = client.embed(
        MODEL, ["The cat sleeps.", "The kitten sleeps.", "Taxes are due in April of each year!"]
    ).embeddings

    def dot(left: Any, right: Any) -> float:
        return sum(float(x) * float(y) for x, y in zip(left, right, strict=True))

    assert dot(cat, cat) == pytest.approx(1, abs=1e-4)
    assert dot(cat, kitten) > dot(cat, tax)


def test_copy_and_delete(client: ollama.Client) -> None:
    """A copy answers and can be deleted; the model stays."""
    assert client.copy(MODEL, "spare").status == "success"
    assert " Paris" in str(client.generate("spare", "The capital of France is", raw=True, options=SHORT).response)
    assert client.delete("spare").status == "success"
    names = [model.model for model in client.list().models]
    assert MODEL in names
    assert "spare:latest" not in names
    with pytest.raises(ollama.ResponseError, match="not found"):
        client.generate("spare", "x")


def test_the_asynchronous_client(server: Any) -> None:
    """The asynchronous client can do the same, several requests at a time."""

    async def use(client: ollama.AsyncClient) -> None:
        assert MODEL in [model.model for model in (await client.list()).models]
        assert (await client.show(MODEL)).details is not None
        asked = (client.generate(MODEL, "The capital of France is", raw=True, options=SHORT) for _ in range(3))
        whole = [answer.response for answer in await asyncio.gather(*asked)]
        assert len(set(whole)) == 1
        stream = await client.generate(MODEL, "The capital of France is", raw=True, stream=True, options=SHORT)
        assert "".join([part.response or "" async for part in stream]) == whole[0]
        reply = await client.chat(MODEL, SKY, options=SHORT)
        parts = await client.chat(MODEL, SKY, stream=True, options=SHORT)
        assert "".join([part.message.content or "" async for part in parts]) == reply.message.content
        assert len((await client.embed(MODEL, ["one", "two"])).embeddings) == 2
        assert MODEL in [model.model for model in (await client.ps()).models]
        assert (await client.copy(MODEL, "spare-async")).status == "success"
        assert (await client.delete("spare-async")).status == "success"

    async def main() -> None:
        async with ollama.AsyncClient(host=server.url) as client:
            await use(client)

    asyncio.run(main())

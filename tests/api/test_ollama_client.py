"""The official ``ollama`` client works unmodified, synchronously and asynchronously, streaming and not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import ollama
import pytest

MODEL = "smol:q4"
ANSWER = "the quick answer is: no"
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
def ollama_client(shared_server: Any) -> Iterator[ollama.Client]:
    with ollama.Client(host=shared_server.url) as client:
        yield client


def test_list_show_ps(ollama_client: ollama.Client) -> None:
    """Models are listed, shown, and seen running."""
    assert MODEL in [model.model for model in ollama_client.list().models]
    shown = ollama_client.show(MODEL)
    assert shown.license == "MIT"
    assert shown.details is not None
    assert shown.details.family == "fake"
    ollama_client.generate(MODEL)
    assert MODEL in [model.model for model in ollama_client.ps().models]


def test_generate_and_chat(ollama_client: ollama.Client) -> None:
    """Whole answers and streams carry the same text."""
    whole = ollama_client.generate(MODEL, "hello", options={"seed": 1})
    assert (whole.response, whole.done_reason) == (ANSWER, "stop")
    assert whole.context
    assert "".join(part.response or "" for part in ollama_client.generate(MODEL, "hello", stream=True)) == ANSWER
    reply = ollama_client.chat(MODEL, MESSAGES, think=False, logprobs=True, top_logprobs=1)
    assert reply.message.content == ANSWER
    assert reply.logprobs
    parts = list(ollama_client.chat(MODEL, MESSAGES, stream=True))
    assert "".join(part.message.content or "" for part in parts) == ANSWER
    assert parts[-1].eval_count


def test_embed_copy_delete(ollama_client: ollama.Client) -> None:
    """Vectors are computed, and a copy is made and deleted."""
    assert len(ollama_client.embed(MODEL, ["a", "b"]).embeddings) == 2
    assert len(ollama_client.embeddings(MODEL, "a").embedding) == 16
    assert ollama_client.copy(MODEL, "copy-of-it").status == "success"
    assert ollama_client.delete("copy-of-it").status == "success"


def test_errors_arrive_as_the_client_s_own(ollama_client: ollama.Client) -> None:
    """The client finds status and text where it looks for them, streaming or not."""
    with pytest.raises(ollama.ResponseError, match="model 'nobody' not found") as caught:
        ollama_client.chat("nobody", MESSAGES)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="model 'nobody' not found"):
        list(ollama_client.generate("nobody", "x", stream=True))


def test_the_asynchronous_client(shared_server: Any) -> None:
    """The asynchronous client can do the same, several requests at a time."""

    async def use() -> None:
        async with ollama.AsyncClient(host=shared_server.url) as client:
            await use_all(client)

    async def use_all(client: ollama.AsyncClient) -> None:
        assert MODEL in [model.model for model in (await client.list()).models]
        assert (await client.show(MODEL)).license == "MIT"
        replies = await asyncio.gather(*(client.chat(MODEL, MESSAGES) for _ in range(4)))
        assert [reply.message.content for reply in replies] == [ANSWER] * 4
        stream = await client.chat(MODEL, MESSAGES, stream=True)
        assert "".join([part.message.content or "" async for part in stream]) == ANSWER
        generated = await client.generate(MODEL, "x", stream=True)
        assert "".join([part.response or "" async for part in generated]) == ANSWER
        assert (await client.generate(MODEL, "x")).response == ANSWER
        assert len((await client.embed(MODEL, "a")).embeddings) == 1
        assert (await client.ps()).models
        assert (await client.copy(MODEL, "async-copy")).status == "success"
        assert (await client.delete("async-copy")).status == "success"

    asyncio.run(use())

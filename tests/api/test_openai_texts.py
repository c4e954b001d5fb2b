"""``/v1/completions`` and ``/v1/embeddings`` with the official ``openai`` client, unmodified."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

MODEL = "smol:q4"
ANSWER = "the quick answer is: no"


@pytest.fixture(scope="module")
def client(shared_server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shared_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def complete(client: openai.OpenAI, **fields: Any) -> Any:
    return client.completions.create(**{"model": MODEL, "prompt": "hello", **fields})


def test_a_completion(client: openai.OpenAI) -> None:
    """Whole and streamed texts are the same, with usage at the end; `echo` repeats the prompt."""
    whole = complete(client)
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == (ANSWER, "stop")
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == ANSWER
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage == whole.usage
    assert complete(client, echo=True).choices[0].text == "hello" + ANSWER
    assert "".join(chunk.choices[0].text for chunk in complete(client, echo=True, stream=True)) == "hello" + ANSWER


def test_completions_with_several_choices(client: openai.OpenAI) -> None:
    """Each has its index; a prompt in a list is one."""
    whole = complete(client, n=2, prompt=["hello"], max_tokens=2)
    assert [(choice.index, choice.finish_reason) for choice in whole.choices] == [(0, "length"), (1, "length")]
    texts = ["", ""]
    for chunk in complete(client, n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [ANSWER, ANSWER]


def test_completions_of_several_prompts(client: openai.OpenAI) -> None:
    """The choices of each prompt have consecutive indices, and each prompt counts once."""
    prompts = ["one", "two three"]
    whole = complete(client, prompt=prompts, n=2, echo=True)
    expected = [f"{prompt}{ANSWER}" for prompt in prompts for _ in range(2)]
    assert [(choice.index, choice.text) for choice in whole.choices] == list(enumerate(expected))
    alone = [complete(client, prompt=prompt).usage for prompt in prompts]
    assert whole.usage.prompt_tokens == sum(usage.prompt_tokens for usage in alone)
    assert whole.usage.completion_tokens == 2 * sum(usage.completion_tokens for usage in alone)
    texts = [""] * 4
    for chunk in complete(client, prompt=prompts, n=2, echo=True, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == expected


def test_completions_of_token_ids(client: openai.OpenAI) -> None:
    """The model gets them as they are, without its template; several lists are several prompts."""
    short, long = (complete(client, prompt=ids).usage.prompt_tokens for ids in ([5, 6], [5, 6, 7, 8, 9]))
    assert long == short + 3
    assert complete(client, prompt=[[5, 6], [5, 6, 7, 8, 9]]).usage.prompt_tokens == short + long
    assert complete(client, prompt=[[5, 6], "hello"]).choices[1].text == ANSWER


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_a_completion(client: openai.OpenAI, stream: bool) -> None:
    """Tokens, their offsets and alternatives, in the form of this older API."""
    answer = complete(client, logprobs=2, stream=stream)
    found = [choice for chunk in (answer if stream else [answer]) for choice in chunk.choices if choice.logprobs]
    tokens = [token for choice in found for token in choice.logprobs.tokens]
    offsets = [offset for choice in found for offset in choice.logprobs.text_offset]
    assert "".join(tokens) == ANSWER
    assert offsets == [len("".join(tokens[:number])) for number in range(len(tokens))]
    assert len(found[0].logprobs.top_logprobs[0]) == 2


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"prompt": None}, "prompt is required"),
        ({"prompt": []}, "prompt is required"),
        ({"prompt": ["a", [1], 2]}, "prompt must be a text, a list of token ids, or a list of either"),
        ({"prompt": [5, 10_000_000]}, "token 10000000 is not in the vocabulary"),
        ({"prompt": ["a"] * 50, "n": 3}, "50 prompts with n = 3 are more than 128 answers"),
        ({"prompt": [1, 2], "echo": True}, "echo needs a prompt that is a text"),
        ({"stop": ["a", 1]}, "invalid type for 'stop' field"),
        ({"logprobs": 50}, "logprobs must be between 0 and 20"),
        ({"echo": True, "logprobs": 1}, "echo and logprobs exclude each other"),
    ],
)
def test_completions_that_are_refused(client: openai.OpenAI, fields: dict[str, Any], text: str) -> None:
    """Each with what is wrong."""
    body = {"model": MODEL, "prompt": "hello", **fields}
    response = httpx.post(f"{client.base_url}completions", json=body)
    assert response.status_code == 400
    assert text in response.json()["error"]["message"]


def test_embeddings(client: openai.OpenAI) -> None:
    """Numbers and base64 are the same vectors; `dimensions` cuts them; texts and token ids are both inputs."""
    asked: Any = {"model": MODEL, "input": ["one", ""]}
    decoded = client.embeddings.create(**asked)  # the client asks for base64
    assert [entry.index for entry in decoded.data] == [0, 1]
    assert decoded.usage.prompt_tokens == decoded.usage.total_tokens > 0
    plain = httpx.post(f"{client.base_url}embeddings", json=asked).json()
    assert plain["data"][0]["embedding"] == pytest.approx(decoded.data[0].embedding, rel=1e-6)
    raw = httpx.post(f"{client.base_url}embeddings", json={**asked, "encoding_format": "BASE64"}).json()
    assert len(struct.unpack("<16f", base64.b64decode(raw["data"][0]["embedding"]))) == 16
    assert len(client.embeddings.create(model=MODEL, input="one", dimensions=5).data[0].embedding) == 5
    ids = client.embeddings.create(model=MODEL, input=[[5, 6], [7]])
    one = client.embeddings.create(model=MODEL, input=[5, 6])
    assert len(ids.data) == 2
    assert ids.data[0].embedding == one.data[0].embedding


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"input": None}, "invalid input"),
        ({"input": []}, "invalid input"),
        ({"input": [1, "a"]}, "invalid input type"),
        ({"input": [10_000_000]}, "token 10000000 is not in the vocabulary"),
        ({"encoding_format": "x"}, "Invalid value for 'encoding_format' = x. Supported values: ['float', 'base64']."),
        ({"model": ""}, "model is required"),
    ],
)
def test_embeddings_that_are_refused(client: openai.OpenAI, fields: dict[str, Any], text: str) -> None:
    """Each with Ollama's text where it has one."""
    response = httpx.post(f"{client.base_url}embeddings", json={"model": MODEL, "input": "x", **fields})
    assert response.status_code == 400, response.text
    assert text in response.json()["error"]["message"]

"""What does not fit into the context, and how prompts continue earlier ones, over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from corral.core.models.model import TemplateText
from corral.core.runtime import Runtime
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes
from tests.api.conftest import LiveServer, running_server

MODEL = "smol:q4"
FIM = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with running_server({"answer": "yes", "longest_token_bytes": 64}) as live:
        weights = gguf_bytes({**SMALL_MODEL, "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", *FIM]})

        async def add(runtime: Runtime) -> None:
            await live.world.add("coder", data=weights)
            every = "{{ range .Messages }}{{ .Content }}{{ end }}"
            await live.world.add("talker", template=TemplateText(kind="go", text=every))

        live.call(add)
        yield live


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        yield http


def post(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    response = client.post(path, json={"model": MODEL, "stream": False, **body})
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def rendered(client: httpx.Client, path: str, **body: Any) -> str:
    reply = post(client, path, _debug_render_only=True, **body)
    assert reply["done"] is False
    text: str = reply["_debug_info"]["rendered_template"]
    return text


def turns(count: int) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[number % 2], "content": f"turn {number} "} for number in range(count)]


def test_a_long_chat_loses_its_oldest_messages(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    """The last object says so, with the number, and the log does too."""
    messages = [{"role": "system", "content": "sys "}, *turns(41)]
    with caplog.at_level(logging.WARNING):
        reply = post(client, "/api/chat", model="talker", messages=messages, options={"num_ctx": 32})
    assert reply["message"]["content"] == "yes"
    assert reply["truncated"] is True
    assert 0 < reply["dropped_messages"] < 41
    assert "dropped_tokens" not in reply
    assert reply["prompt_eval_count"] < 32
    assert f"{reply['dropped_messages']} messages" in caplog.text
    shown = rendered(client, "/api/chat", model="talker", messages=messages, options={"num_ctx": 32})
    assert shown.startswith("sys ")
    assert shown.endswith("turn 40 ")
    assert f"turn {reply['dropped_messages'] - 1} " not in shown
    assert f"turn {reply['dropped_messages']} " in shown


def test_a_chat_that_fits_says_nothing(client: httpx.Client) -> None:
    """Nothing is said of a cut that was not made."""
    reply = post(client, "/api/chat", messages=turns(3))
    assert not {"truncated", "dropped_messages", "dropped_tokens"} & reply.keys()


@pytest.mark.parametrize("raw", [True, False])
def test_a_long_prompt_loses_its_middle(client: httpx.Client, raw: bool) -> None:
    """One message that does not fit alone is cut, and so is a raw prompt; the number of lost tokens is reported."""
    for count in (200, 40_000):  # the second one is cut before it is tokenized as a whole
        reply = post(client, "/api/generate", prompt="word " * count, raw=raw, options={"num_ctx": 64})
        assert reply["truncated"] is True
        assert reply["prompt_eval_count"] < 64
        lost = reply["dropped_tokens"] + reply["prompt_eval_count"]
        assert lost == pytest.approx(post_count(client, "word " * 100) * count / 100, rel=0.1)


def post_count(client: httpx.Client, prompt: str) -> int:
    count: int = post(client, "/api/generate", prompt=prompt, raw=True)["prompt_eval_count"]
    return count


@pytest.mark.parametrize("field", [{"truncate": False}, {"shift": False}])
def test_what_must_not_be_cut_is_refused(client: httpx.Client, field: dict[str, bool]) -> None:
    """Without `truncate`, or without `shift` for a single message, the prompt is an error."""
    body = {"model": MODEL, "messages": turns(1), "options": {"num_ctx": 4}, **field}
    response = client.post("/api/chat", json={**body, "messages": [{"role": "user", "content": "word " * 50}]})
    assert response.status_code == 400
    assert response.json()["error"].startswith("the prompt is longer than the context length currently available")


def test_messages_are_dropped_without_shift_too(client: httpx.Client) -> None:
    """`shift` is about tokens; whole messages are still left out."""
    reply = post(client, "/api/chat", messages=turns(41), shift=False, options={"num_ctx": 32})
    assert reply["dropped_messages"] > 0


def test_a_prompt_continues_the_context_of_an_earlier_answer(client: httpx.Client) -> None:
    """The ids of an answer go back in as they are: the next prompt is all of them, and the new text."""
    first = post(client, "/api/generate", prompt="one two ")
    alone = post(client, "/api/generate", prompt="three ")
    second = post(client, "/api/generate", prompt="three ", context=first["context"])
    assert second["context"][: len(first["context"])] == first["context"]
    assert second["prompt_eval_count"] >= len(first["context"]) + alone["prompt_eval_count"] - 1
    assert rendered(client, "/api/generate", prompt="three ", context=first["context"]).endswith("yes<|eos|>three ")


def test_ids_that_are_not_in_the_vocabulary_are_refused(client: httpx.Client) -> None:
    """A wrong id is an error of the request that names it."""
    for wrong in (-1, 10_000_000, 1 << 62):
        response = client.post("/api/generate", json={"model": MODEL, "prompt": "x", "context": [1, wrong]})
        assert response.status_code == 400, response.text
        assert str(wrong) in response.json()["error"]


def test_a_model_without_fim_tokens_refuses_a_suffix(client: httpx.Client) -> None:
    """The error is Ollama's, with the full name; nothing is loaded for it."""
    response = client.post("/api/generate", json={"model": MODEL, "prompt": "a", "suffix": "b"})
    assert response.status_code == 400
    assert response.json() == {"error": "registry.ollama.ai/library/smol:q4 does not support insert"}


def test_a_suffix_goes_between_the_fim_tokens(client: httpx.Client) -> None:
    """A model whose vocabulary has them can insert, and shows it."""
    assert "insert" in client.post("/api/show", json={"model": "coder"}).json()["capabilities"]
    reply = client.post(
        "/api/generate", json={"model": "coder", "prompt": "a ", "suffix": "b ", "stream": False}
    ).json()
    assert reply["response"] == "yes"
    ids = reply["context"]
    assert [ids.index(token_id) for token_id in (4, 5, 6)] == sorted(ids.index(token_id) for token_id in (4, 5, 6))


def test_a_suffix_continues_earlier_ids(client: httpx.Client) -> None:
    """Earlier ids come before the tokens that fill in."""
    ids = post(client, "/api/generate", model="coder", prompt="a ", suffix="b ", context=[1, 3])["context"]
    assert ids[ids.index(1) :][:3] == [1, 3, 4]


def test_a_raw_prompt_has_no_template_system_or_context(client: httpx.Client) -> None:
    """The error is Ollama's."""
    for field in ({"system": "x"}, {"context": [1]}, {"template": "x"}):
        response = client.post("/api/generate", json={"model": MODEL, "prompt": "x", "raw": True, **field})
        assert response.json() == {"error": "raw mode does not support template, system, or context"}

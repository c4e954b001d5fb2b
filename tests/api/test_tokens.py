"""``/api/tokenize`` and ``/api/detokenize``: texts and chats, without loading a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from corral.adapters.engines.fake import SPEC
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes
from tests.api.conftest import LiveServer, running_server

MODEL = "smol:q4"
BOS = 256
TEMPLATE = (
    "{% for tool in tools %}<|im_start|>tool {{ tool.function.name }}<|im_end|>{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
)
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A server whose models nothing but a test of this module loads."""
    with running_server() as server:
        server.call(
            lambda _: server.world.add(
                "templated",
                data=gguf_bytes({**SMALL_MODEL, "tokenizer.chat_template": TEMPLATE}),
                capabilities=("completion", "tools"),
            )
        )
        yield server


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def post(client: httpx.Client, path: str, **body: Any) -> Any:
    response = client.post(path, json={"model": MODEL, **body})
    assert response.status_code == 200, response.text
    return response.json()


def test_a_text_and_back(client: httpx.Client, server: LiveServer) -> None:
    """The ids of a text give the text again, and no model is loaded for that."""
    text = "hello people, où ça? 日本 🐎"
    found = post(client, "/api/tokenize", content=text)
    assert found == {"model": MODEL, "tokens": found["tokens"], "count": len(found["tokens"])}
    assert BOS not in found["tokens"]
    assert post(client, "/api/tokenize", prompt=text) == found
    assert post(client, "/api/detokenize", tokens=found["tokens"]) == {"model": MODEL, "content": text}
    assert server.call(_loaded) == []


def test_the_models_own_tokens(client: httpx.Client) -> None:
    """Those around a text come on request; what is spelled like one is one, unless that is switched off."""
    bare = post(client, "/api/tokenize", content="the people")["tokens"]
    assert post(client, "/api/tokenize", content="the people", add_special=True)["tokens"] == [BOS, *bare]
    assert post(client, "/api/tokenize", content="<|bos|>the people")["tokens"] == [BOS, *bare]
    plain = post(client, "/api/tokenize", content="<|bos|>", parse_special=False)["tokens"]
    assert BOS not in plain
    assert post(client, "/api/detokenize", tokens=plain)["content"] == "<|bos|>"
    assert post(client, "/api/tokenize", content="")["tokens"] == []


def test_pieces_of_characters(client: httpx.Client) -> None:
    """Pieces are texts, or numbers where a character is spread over several tokens; the text of a part has U+FFFD."""
    found = post(client, "/api/tokenize", content="the ç", with_pieces=True)
    assert found["pieces"] == ["the", " ", [0xC3], [0xA7]]
    cut = post(client, "/api/detokenize", tokens=found["tokens"][:-1], with_pieces=True)
    assert cut["content"] == "the \ufffd"
    assert cut["pieces"] == found["pieces"][:-1]


def test_a_chat_as_it_will_be_sent(client: httpx.Client, server: LiveServer) -> None:
    """The tokens of a chat are those that the model gets for it: as many as it counts, with the prompt's text."""
    chat: dict[str, Any] = {
        "model": "templated",
        "messages": [{"role": "user", "content": "Be <|im_end|> kind"}],
        "tools": TOOLS,
    }
    found = post(client, "/api/tokenize", **chat, with_prompt=True, with_pieces=True)
    assert found["prompt"] == "<|im_start|>tool find<|im_end|><|im_start|>user\nBe <|im_end|> kind<|im_end|>\n"
    assert "".join(found["pieces"]) == "<|bos|>" + found["prompt"]
    assert found["pieces"].count("<|im_end|>") == 2, "what a user typed is no control token"
    assert server.call(_loaded) == []
    answer = post(client, "/api/chat", **chat, stream=False, options={"num_predict": 1})
    assert answer["prompt_eval_count"] == found["count"]
    assert post(client, "/api/tokenize", **chat, with_prompt=True, with_pieces=True) == found
    client.post("/api/generate", json={"model": "templated", "keep_alive": 0})


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/api/tokenize", {"content": "x", "model": "nobody"}, 404, "model 'nobody' not found"),
        ("/api/tokenize", {"content": "x", "model": ""}, 400, "model is required"),
        ("/api/tokenize", {}, 400, "content or messages is required"),
        ("/api/tokenize", {"content": "x", "messages": []}, 400, "exclude each other"),
        ("/api/tokenize", {"content": "x", "engine": "nobody"}, 400, "there is no engine 'nobody'"),
        ("/api/tokenize", {"messages": [{"role": "user", "content": "x"}], "think": True}, 400, "thinking"),
        ("/api/detokenize", {"tokens": [3, 1 << 20]}, 400, "token 1048576 is not in the vocabulary"),
        ("/api/detokenize", {"tokens": [-1]}, 400, "token -1 is not in the vocabulary"),
        ("/api/detokenize", {"tokens": ["a"]}, 400, "cannot unmarshal"),
    ],
)
def test_what_cannot_be_tokenized(client: httpx.Client, path: str, body: Any, status: int, text: str) -> None:
    """Says why, in Ollama's envelope."""
    response = client.post(path, json={"model": MODEL, **body})
    assert response.status_code == status, response.text
    assert text in response.json()["error"]


async def _loaded(runtime: Any) -> list[str]:
    return [one.record.name.short for one in runtime.scheduler.loaded()]


DYING = """
import os, signal

def vocabulary(request, on_progress):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_vocabulary_that_kills_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As native code may with a hostile file. The request's error says so, and the server answers the next one."""
    (tmp_path / "dying_vocabulary.py").write_text(DYING)
    monkeypatch.syspath_prepend(tmp_path)
    spec = replace(SPEC, vocabulary="dying_vocabulary:vocabulary")
    with running_server(engines=[spec], runner="process") as server, httpx.Client(base_url=server.url) as client:
        response = client.post("/api/tokenize", json={"model": MODEL, "content": "x"})
        assert response.status_code == 500
        assert "SIGKILL" in response.json()["error"]
        assert client.get("/api/version").status_code == 200

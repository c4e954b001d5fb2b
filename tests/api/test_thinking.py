"""Thinking over HTTP: `think`, the field `thinking`, its limit, and formats after it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from corral.api.library import AsyncCorral
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes
from tests.api.conftest import LiveServer, running_server

SAID = "hm, hm</think>\n\nYes"
TEMPLATE = "{{ messages[-1].content }}{{ '<think>' if enable_thinking else '<think></think>' }}"


@contextmanager
def thinking_server() -> Iterator[LiveServer]:
    """A server with a model that thinks."""
    weights = gguf_bytes({**SMALL_MODEL, "tokenizer.chat_template": TEMPLATE})
    with running_server({"answer": SAID}) as server:
        server.call(lambda _: server.world.add("thinker", data=weights))
        yield server


@pytest.fixture(scope="module")
def thinker() -> Iterator[httpx.Client]:
    with thinking_server() as server, httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def ask(client: httpx.Client, route: str, **fields: Any) -> list[dict[str, Any]]:
    asked: dict[str, Any] = {"prompt": "x"} if route == "/api/generate" else {}
    asked = asked or {"messages": [{"role": "user", "content": "x"}]}
    response = client.post(route, json={"model": "thinker", **asked, **fields})
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def said(lines: list[dict[str, Any]]) -> tuple[str, str]:
    """The thinking and the visible text, joined."""
    parts = [line.get("message", line) for line in lines]
    texts = [part["content"] if "content" in part else part["response"] for part in parts]
    return "".join(part.get("thinking", "") for part in parts), "".join(texts)


BOTH = pytest.mark.parametrize("route", ["/api/generate", "/api/chat"])


@BOTH
@pytest.mark.parametrize("think", [None, True, "low", "max"])
@pytest.mark.parametrize("stream", [True, False])
def test_thinking_is_apart_from_the_answer(thinker: httpx.Client, route: str, think: Any, stream: bool) -> None:
    """Unless it is switched off, streamed or in one piece."""
    lines = ask(thinker, route, think=think, stream=stream)
    assert said(lines) == ("hm, hm", "Yes")
    assert (len(lines) > 1) is stream


@BOTH
def test_without_thinking_nothing_is_taken_for_it(thinker: httpx.Client, route: str) -> None:
    """The template learns that it is off, and what the model writes nevertheless is shown as it is."""
    lines = ask(thinker, route, think=False)
    assert said(lines) == ("", SAID)
    assert all("thinking" not in line.get("message", line) for line in lines)


def test_a_model_that_thinks_says_so(thinker: httpx.Client) -> None:
    """Among its capabilities."""
    assert "thinking" in thinker.post("/api/show", json={"model": "thinker"}).json()["capabilities"]


@BOTH
def test_a_format_applies_after_the_thinking(thinker: httpx.Client, route: str) -> None:
    """On generate as well as on chat, in one request; without thinking, from the first token."""
    lines = ask(thinker, route, format={"enum": ["no"]})
    thinking, text = said(lines)
    assert (thinking, text.strip()) == ("hm, hm", '"no"')
    assert lines[-1]["format_valid"] is True
    assert said(ask(thinker, route, format={"enum": ["no"]}, think=False)) == ("", '"no"')
    assert said(ask(thinker, route, format={"type": "choice", "choices": ["A", "B"]}))[1].strip() in ("A", "B")


@BOTH
def test_thinking_can_be_limited(thinker: httpx.Client, route: str) -> None:
    """After so many tokens the closing tag is forced, alone or before a format; the rest is visible."""
    lines = ask(thinker, route, options={"thinking_budget": 1})
    thinking, text = said(lines)
    assert (thinking, bool(text)) == ("h", True)
    assert "ignored_options" not in lines[-1]
    both = ask(thinker, route, options={"thinking_budget": 1}, format={"enum": ["no"]})
    assert (said(both)[0], said(both)[1].strip()) == ("h", '"no"')
    assert said(ask(thinker, route, options={"thinking_budget": -1})) == ("hm, hm", "Yes")


def test_a_limit_without_effect_is_told(thinker: httpx.Client) -> None:
    """A raw prompt does not say where thinking ends, and a model may have no tags."""
    options = {"thinking_budget": 1}
    assert ask(thinker, "/api/generate", raw=True, options=options)[-1]["ignored_options"] == ["thinking_budget"]
    assert "thinking_budget" in ask(thinker, "/api/chat", model="other", options=options)[-1]["ignored_options"]
    assert "ignored_options" not in ask(thinker, "/api/chat", think=False, options=options)[-1]


def test_the_library_thinks_too() -> None:
    """`think=` and the result's `thinking` are those of the server."""
    with thinking_server() as server:

        async def main(runtime: Any) -> Any:
            async with AsyncCorral(runtime=runtime) as corral:
                chat = await corral.chat("thinker", "x", think=True)
                generated = await corral.generate("thinker", "x", think=False, format={"enum": ["no"]})
                return chat, generated

        chat, generated = server.call(main)
    assert (chat.thinking, chat.text, chat.message["thinking"]) == ("hm, hm", "Yes", "hm, hm")
    assert (generated.thinking, generated.text, generated.format_valid) == (None, '"no"', True)

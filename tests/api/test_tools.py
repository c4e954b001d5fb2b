"""Tools through the HTTP API: one model that calls them by itself, and one that has to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes
from tests.api.conftest import running_server

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TEMPLATE = "{{ messages[-1].content }}{{ tools | tojson if tools }}{% if false %}<tool_call></tool_call>{% endif %}"
WEIGHTS = gguf_bytes({**SMALL_MODEL, "tokenizer.chat_template": TEMPLATE})
TWO_TEMPLATES = {
    "tokenizer.chat_template": "plain {{ messages[-1].content }}",
    "tokenizer.chat_template.tool_use": "tool_use " + TEMPLATE,
}
QUESTION = [{"role": "user", "content": "hello"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Bonn"]}}}
PARAMETERS |= {"required": ["city"]}


def tool(**more: Any) -> dict[str, Any]:
    function = {"name": "weather", "description": "Tells it", "parameters": PARAMETERS}
    return {"type": "function", "function": function | more}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server(engine={"answer": f"Let me see.\n{CALL}\n{CALL.replace('weather', 'sunset')}"}) as server:
        server.call(lambda runtime: server.world.add("caller", data=WEIGHTS))
        server.call(lambda runtime: server.world.add("both", data=gguf_bytes({**SMALL_MODEL, **TWO_TEMPLATES})))
        yield server.url


def chat(url: str, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "caller", "messages": QUESTION, "tools": [tool()], "options": {"seed": 1}} | fields
    response = httpx.post(f"{url}/api/chat", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def test_a_stream(url: str) -> None:
    """Text before a call comes at once, calls come whole before the last line, and what is no call stays text."""
    lines = chat(url)
    [place] = [number for number, line in enumerate(lines) if line["message"].get("tool_calls")]
    assert "".join(line["message"]["content"] for line in lines[: place + 1]).startswith("Let me see.")
    [call] = lines[place]["message"]["tool_calls"]
    assert re.fullmatch("call_[a-z0-9]{8}", call.pop("id"))
    assert call == {"function": {"index": 0, "name": "weather", "arguments": {"city": "Paris"}}}
    assert "sunset" in "".join(line["message"]["content"] for line in lines[place:])
    assert lines[-1]["done_reason"] == "stop"
    assert lines[-1]["warnings"] == ["a tool call was left in the text: there is no tool 'sunset'"]


def test_one_object(url: str) -> None:
    """Calls and text are accumulated; without tools, all of it is text."""
    [whole] = chat(url, stream=False)
    assert whole["message"]["content"].startswith("Let me see.")
    assert [call["function"]["name"] for call in whole["message"]["tool_calls"]] == ["weather"]
    without: list[dict[str, Any]] = [{"tools": []}, {"tool_choice": "none"}]
    for fields in without:
        [plain] = chat(url, stream=False, **fields)
        assert CALL in plain["message"]["content"]
        assert "tool_calls" not in plain["message"]


def test_a_separate_template_for_tools(url: str) -> None:
    """It is used if there are tools, or were any in the conversation; calls are read as it tells."""
    shown = {"model": "both", "stream": False, "_debug_render_only": True}
    assert "tools" in httpx.post(f"{url}/api/show", json={"model": "both"}).json()["capabilities"]
    calls = [{"function": {"name": "f", "arguments": {}}}]
    past = [*QUESTION, {"role": "assistant", "content": "", "tool_calls": calls}, {"role": "tool", "content": "r"}]
    asked: list[tuple[dict[str, Any], str]] = [
        ({}, "tool_use hello["),
        ({"tools": []}, "plain hello"),
        ({"tools": [], "messages": past}, "tool_use r"),
    ]
    for fields, begun in asked:
        [line] = chat(url, **shown, **fields)
        assert line["_debug_info"]["rendered_template"].startswith(begun)
    [whole] = chat(url, model="both", stream=False)
    assert [call["function"]["name"] for call in whole["message"]["tool_calls"]] == ["weather"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_required_call(url: str, stream: bool, choice: Any) -> None:
    """Whatever the model would have said, the answer is a call."""
    lines = chat(url, stream=stream, tool_choice=choice, tools=[tool(strict=True), tool(name="other")])
    assert "".join(line["message"]["content"] for line in lines) == ""
    calls = [call for line in lines for call in line["message"].get("tool_calls", ())]
    assert calls
    for number, call in enumerate(calls):
        assert call["function"]["index"] == number
        assert call["function"]["arguments"]["city"] in ("Paris", "Bonn")
        assert choice == "required" or call["function"]["name"] == "weather"


@pytest.mark.parametrize("seed", range(4))
def test_a_format_beside_a_strict_tool(url: str, seed: int) -> None:
    """The answer is one or the other, whatever the model would have said."""
    fields = {"format": {"type": "array", "items": {"const": 7}}, "options": {"seed": seed, "num_predict": 200}}
    [whole] = chat(url, stream=False, tools=[tool(strict=True)], **fields)
    if calls := whole["message"].get("tool_calls"):
        assert whole["message"]["content"] == ""
        assert {call["function"]["arguments"]["city"] for call in calls} <= {"Paris", "Bonn"}
    else:
        assert whole["format_valid"]
    [plain] = chat(url, stream=False, **fields)
    assert plain["format_valid"]
    assert "tool_calls" not in plain["message"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"tool_choice": "any"}, 'invalid tool_choice: "any"; expected "auto", "none", "required" or'),
        ({"tool_choice": "required", "tools": []}, 'tool_choice: "required" needs tools'),
        ({"tools": [tool(strict=True, parameters={"$ref": "#/x"})]}, "the grammar of the tools' calls cannot be used"),
        ({"tools": "x"}, "json: cannot unmarshal string into Go struct field ChatRequest.tools of type"),
        (
            {"tools": [{"function": {"name": 7}}]},
            "json: cannot unmarshal number into Go struct field ToolFunction.tools.function.name of type string",
        ),
        ({"model": "other"}, "registry.ollama.ai/library/other:latest does not support tools"),
    ],
)
def test_what_is_refused(url: str, fields: dict[str, Any], error: str) -> None:
    """With status 400, and Ollama's text if it has one."""
    body = {"model": "caller", "messages": QUESTION, "tools": [tool()]} | fields
    response = httpx.post(f"{url}/api/chat", json=body, timeout=60)
    assert response.status_code == 400
    assert response.json()["error"].startswith(error)


def test_ollamas_client(url: str) -> None:
    """It reads the calls, and its functions become tools."""

    def weather(city: str) -> str:
        """Tells it.

        Args:
            city: The city
        """
        return city

    with ollama.Client(url) as client:
        reply = client.chat("caller", QUESTION, tools=[weather])
        assert [call.function.name for call in reply.message.tool_calls or ()] == ["weather"]
        result = {"role": "tool", "tool_name": "weather", "content": "sunny"}
        assert client.chat("caller", [*QUESTION, reply.message, result], tools=[weather]).message.content

"""Chats whose functions are called, with the fake engine: its first answer is a call that is required."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from corral import AsyncCorral, Corral
from corral.api.library.results import Chunk
from corral.api.library.tools import to_tools
from corral.core.errors import InvalidRequest, Unsupported
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes

MODEL = "caller:latest"
TEMPLATE = """{%- for m in messages %}[{{ m.role }}] {{ m.content }}
{%- for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{{ c.id }}{% endfor %}
{%- if m.role == 'tool' %}({{ m.name }} {{ m.tool_call_id }}){% endif %}
{% endfor %}{{ tools | tojson if tools else 'no tools' }}"""
DRAWN: dict[str, Any] = {"seed": 1, "temperature": 1, "num_predict": 400}

Colour = Literal["red", "blue"]


def paint(colour: Colour) -> str:
    """Paints it.

    Args:
        colour: The colour.
    """
    return f"painted {colour}"


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The arguments of a Corral with a store of one model with tools, and the fake engine."""
    folder: Path = tmp_path_factory.mktemp("tools")
    (folder / "caller.gguf").write_bytes(gguf_bytes({**SMALL_MODEL, "tokenizer.chat_template": TEMPLATE}))
    (folder / "plain.gguf").write_bytes(gguf_bytes())
    setup: dict[str, Any] = {"models": folder / "store", "engine": "fake", "options": DRAWN}
    with Corral(**setup) as client:
        client.import_model(folder / "caller.gguf", name=MODEL)
        client.import_model(folder / "plain.gguf", name="plain")
    return setup


@pytest.fixture(scope="module")
def client(setup: dict[str, Any]) -> Iterator[Corral]:
    with Corral(**setup) as client:
        yield client


def ask(client: Corral, *tools: Any, **how: Any) -> Any:
    return client.chat(MODEL, "Paint it.", tools=list(tools), tool_choice="required", **how)


def test_a_call_is_part_of_the_answer(client: Corral) -> None:
    """Without `run_tools`, the caller sees it: as a call, and in the message that goes into the conversation."""
    answer = ask(client, paint)
    [call] = answer.message.tool_calls
    assert (call.name, set(call.arguments)) == ("paint", {"colour"})
    assert call.arguments["colour"] in ("red", "blue")
    assert (answer.text, answer.warnings) == ("", ())
    conversation = [{"role": "user", "content": "Paint it."}, answer.message]
    conversation.append({"role": "tool", "tool_name": "paint", "content": "done"})
    assert client.chat(MODEL, conversation, tools=[paint]).message.tool_calls == ()


def test_a_function_is_called(client: Corral) -> None:
    """The answer is the one after the call; what was said and done before is in `messages`."""
    threads = []

    def note(colour: Colour) -> str:
        threads.append(threading.current_thread())
        return f"noted {colour}"

    answer = ask(client, note, run_tools=True)
    asked, result, last = answer.messages
    assert threads == [threading.current_thread()]
    assert asked.tool_calls[0].name == "note"
    assert result == {
        "role": "tool",
        "content": f"noted {asked.tool_calls[0].arguments['colour']}",
        "tool_name": "note",
        "tool_call_id": asked.tool_calls[0].id,
    }
    assert last == answer.message
    assert answer.text
    assert not last.tool_calls
    alone = ask(client, note)
    assert answer.usage.generated_tokens > alone.usage.generated_tokens


def test_a_stream_shows_calls_and_results(client: Corral) -> None:
    """In the order in which they happen, and then the answer."""
    with ask(client, paint, run_tools=True, stream=True) as stream:
        chunks: list[Chunk] = list(stream)
    kinds = [
        ("call" * bool(c.tool_calls)) + ("result" * bool(c.tool_results)) + ("text" * bool(c.text)) for c in chunks
    ]
    assert [kind for kind in dict.fromkeys(kinds) if kind] == ["call", "result", "text"]
    [result] = [result for chunk in chunks for result in chunk.tool_results]
    assert (result.text.startswith("painted"), result.failed) == (True, False)
    assert "".join(chunk.text for chunk in chunks) == stream.result.text


async def _paint_later(colour: Colour) -> str:
    await asyncio.sleep(0)
    return f"painted {colour}"


_paint_later.__name__ = "paint"


@pytest.mark.parametrize("function", [paint, _paint_later])
def test_the_same_on_an_event_loop(client: Corral, setup: dict[str, Any], function: Callable[..., Any]) -> None:
    """Async functions are awaited, the others run in another thread."""

    async def on_a_loop() -> Any:
        async with AsyncCorral(**setup) as corral:
            return await corral.chat(MODEL, "Paint it.", tools=[function], tool_choice="required", run_tools=True)

    there, here = asyncio.run(on_a_loop()), ask(client, function, run_tools=True)
    for answer in (there, here):
        assert [message.role for message in answer.messages] == ["assistant", "tool", "assistant"]
        assert answer.messages[1].content.startswith("painted ")


def test_the_model_reads_what_a_function_raises(client: Corral) -> None:
    """So that it can try again; the chat goes on."""

    def paint(colour: Colour) -> str:
        raise KeyError("no paint")

    answer = ask(client, paint, run_tools=True)
    assert answer.messages[1].content == "error: KeyError: 'no paint'"
    assert answer.text


@pytest.mark.parametrize(
    ("value", "text"),
    [("as it is", "as it is"), (None, "null"), ({"a": [1]}, '{"a":[1]}'), (1.5, "1.5"), (complex(1, 2), "(1+2j)")],
)
def test_results_are_texts(client: Corral, value: Any, text: str) -> None:
    """JSON, unless the function returns a text or something that JSON has no form for."""

    def paint(colour: Colour) -> Any:
        return value

    assert ask(client, paint, run_tools=True).messages[1].content == text


def test_an_interrupt_ends_the_chat(client: Corral) -> None:
    """It is not the tool's result, and nothing keeps on running."""

    def paint(colour: Colour) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(client, paint, run_tools=True)
    assert all(model.active == 0 for model in client.loaded())


class _Always:
    """In place of the inference service: a model that calls its tools whenever it has some."""

    def __init__(self, service: Any) -> None:
        self.service = service

    async def chat(self, call: Any) -> Any:
        required = type(call.tool_choice)(mode="required")
        choice = required if call.tools and call.tool_choice.mode == "auto" else call.tool_choice
        return await self.service.chat(msgspec.structs.replace(call, tool_choice=choice))


def test_the_rounds_are_bounded(client: Corral) -> None:
    """After `max_rounds`, the model gets no more tools, so that it has to answer."""
    runtime = client.runtime()
    setup: dict[str, Any] = {"runtime": msgspec.structs.replace(runtime, inference=_Always(runtime.inference))}

    async def roles(rounds: int) -> list[str]:
        async with AsyncCorral(**setup, options=DRAWN) as always:
            answer = await always.chat(MODEL, "Paint it.", tools=[paint], run_tools=True, max_rounds=rounds)
            assert not answer.message.tool_calls
            return [message.role for message in answer.messages]

    for rounds in (1, 3):
        found = client.call(lambda _, rounds=rounds: roles(rounds))  # type: ignore[misc]
        assert found == [*["assistant", "tool"] * rounds, "assistant"]


def test_a_call_of_a_tool_without_a_function_is_the_callers(client: Corral) -> None:
    """The chat ends with it."""
    described = {"name": "sculpt", "parameters": {"type": "object", "properties": {}}}
    choice = {"type": "function", "function": {"name": "sculpt"}}
    answer = client.chat(MODEL, "Go.", tools=[paint, described], tool_choice=choice, run_tools=True)
    assert [call.name for call in answer.message.tool_calls] == ["sculpt"]
    assert answer.messages == (answer.message,)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"tools": paint}, "tools: expected a list"),
        ({"tools": [paint], "tool_choice": "any"}, "invalid tool_choice"),
        ({"tools": [paint], "run_tools": "yes"}, "run_tools: expected bool"),
        ({"tools": [paint], "run_tools": True, "max_rounds": 0}, "max_rounds: expected at least 1"),
    ],
)
def test_arguments_that_cannot_be_meant(client: Corral, how: dict[str, Any], said: str) -> None:
    """The error names them."""
    with pytest.raises(InvalidRequest, match=said):
        client.chat(MODEL, "Paint it.", **how)


def test_a_model_without_tools(client: Corral) -> None:
    """It refuses them, also if the functions are to be called."""
    for run_tools in (False, True):
        with pytest.raises(Unsupported, match="does not support tools"):
            client.chat("plain", "Paint it.", tools=[paint], run_tools=run_tools)


def test_leaving_a_stream_between_rounds(client: Corral) -> None:
    """Nothing is left running, and nothing is called any more."""
    called: list[str] = []

    def paint(colour: Colour) -> str:
        called.append(colour)
        return "done"

    with ask(client, paint, run_tools=True, stream=True) as stream:
        while not next(stream).tool_calls:
            pass
    assert called == []
    assert all(model.active == 0 for model in client.loaded())


def test_the_example_of_the_docs_runs(setup: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/tools.md, unchanged; only its model is one of the fake engine, which answers at once."""
    page = (Path(__file__).parents[2] / "docs" / "tools.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    with Corral(**setup) as client:
        client.copy(MODEL, "qwen3:4b")
    monkeypatch.setenv("CORRAL_MODELS", str(setup["models"]))
    monkeypatch.setenv("CORRAL_ENGINE", "fake")
    exec(compile(example, "docs/tools.md", "exec"), {})  # it prints the answer


def test_the_request_of_the_docs_is_one(client: Corral) -> None:
    """The tools in docs/tools.md are valid."""
    page = (Path(__file__).parents[2] / "docs" / "tools.md").read_text(encoding="utf-8")
    [body] = re.findall(r"-d '(\{.*?\})'\n```", page, flags=re.DOTALL)
    request = json.loads(body)
    [tool] = to_tools(request["tools"])[0]
    assert tool.parameters["required"] == ["city"]

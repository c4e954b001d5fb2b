"""Go templates print what Go's own text/template prints, byte for byte: files of ``tests/golden/go_templates``."""

from __future__ import annotations

import datetime
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.templates.go import functions
from corral.adapters.templates.go.chat_format import GoFormat
from corral.adapters.templates.go.evaluation import TemplateError
from corral.adapters.templates.go.execution import execute
from corral.adapters.templates.go.limits import Limits
from corral.adapters.templates.go.strings import valid_text
from corral.adapters.templates.go.tools import go_value
from corral.core.errors import TemplateFailed
from corral.core.go.templates.chat_templates import parse_chat_template
from corral.core.go.templates.parser import TemplateSyntaxError
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.messages import Message, Tool, ToolCall
from corral.core.requests.prompts import prompt_text
from corral.core.requests.requests import ChatRequest
from corral.core.requests.typed_text import TypedText

_GOLDEN = Path(__file__).parents[1] / "golden" / "go_templates"
_NO_CONTROL_TOKENS = ControlTokens(())


def _read(name: str) -> Any:
    return json.loads(lzma.decompress((_GOLDEN / name).read_bytes()))


@pytest.fixture(autouse=True)
def _today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "_today", lambda: datetime.date(2026, 11, 29))


def _chats() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name of the template, its text, and the conversation, in the order of the results."""
    conversations = json.loads((_GOLDEN / "conversations.json").read_text("utf-8"))
    for file in sorted((_GOLDEN / "templates").iterdir()):
        template = file.read_text("utf-8")
        for name, chat in conversations.items():
            if "suffix" not in chat or ".Suffix" in template:
                yield f"{file.stem}, {name}", template, chat


def _request(chat: dict[str, Any]) -> ChatRequest:
    messages = tuple(
        Message(
            role=message["role"],
            content=message["content"],
            thinking=message.get("thinking"),
            tool_calls=tuple(ToolCall(id=call["id"], **call["function"]) for call in message.get("tool_calls", ())),
            tool_name=message.get("tool_name"),
            tool_call_id=message.get("tool_call_id"),
        )
        for message in chat["messages"]
    )
    tools = tuple(Tool(**tool["function"]) for tool in chat.get("tools", ()))
    return ChatRequest(messages=messages, tools=tools, think=chat.get("think"), suffix=chat.get("suffix", ""))


def _snippet(template: str, data: Any) -> dict[str, str]:
    try:
        text = execute(parse_chat_template(template), go_value(data), Limits(0), TypedText(_NO_CONTROL_TOKENS))
    except (TemplateSyntaxError, TemplateError) as error:
        return {"output": "", "error": valid_text(str(error))}
    return {"output": valid_text(text)}


def test_chats_are_rendered_as_go_renders_them() -> None:
    """Templates in the style of every family, with systems, tools, thinking and odd texts; marks change nothing.

    Go closes a begun answer if the template does; here it is continued.
    """
    expected = iter(_read("expected.json.xz"))
    for name, template, chat in _chats():
        golden = next(expected)["output"]
        request, chat_format = _request(chat), GoFormat(template)
        if "begun answer" in name and not golden.endswith(chat["messages"][-1]["content"]):
            continue
        for control in (_NO_CONTROL_TOKENS, LOOKALIKES):
            assert prompt_text(chat_format.render(request, control).prompt) == golden, name


def test_small_templates_print_or_fail_as_in_go() -> None:
    """Every function, operator and statement, right and wrong, with Go's error texts."""
    snippets = _read("snippets.json.xz")
    templates = snippets["templates"]
    end = -len(snippets["chats"])
    expected = _read("expected.json.xz")[end - len(templates) : end]
    for template, golden in zip(templates, expected, strict=True):
        assert _snippet(template, snippets["data"]) == golden, template


def test_small_templates_see_messages_and_tools_as_in_go() -> None:
    """Every field of messages, calls and tools: its type, its text, its JSON, its truth."""
    conversations = json.loads((_GOLDEN / "conversations.json").read_text("utf-8"))
    requests = {name: _request(chat) for name, chat in conversations.items()}
    chats = _read("snippets.json.xz")["chats"]
    for (template, name), golden in zip(chats, _read("expected.json.xz")[-len(chats) :], strict=True):
        try:
            result = {"output": prompt_text(GoFormat(template).render(requests[name], _NO_CONTROL_TOKENS).prompt)}
        except TemplateFailed as error:
            result = {"output": "", "error": error.message}
        assert result == golden, template

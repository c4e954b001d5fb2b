"""Which built-in parsers and formats of tool calls read the answers of which models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from corral.adapters.answer_parsers.harmony import HarmonyParser, HarmonyThinking
from corral.adapters.answer_parsers.think_tags import ThinkTagParsers
from corral.core.generation.parser_choice import ParserChoice
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.requests import ChatRequest
from corral.core.requests.think_tags import KNOWN_THINK_TAGS
from corral.core.specs.imports import import_name
from corral.plugins.builtin import TOOL_CALL_FORMATS
from tests.unit.call_templates import TEMPLATES

FORMATS = {
    name: import_name(f"corral.adapters.answer_parsers.{target}")() for name, target in TOOL_CALL_FORMATS.items()
}


@pytest.mark.parametrize("family", sorted(FORMATS))
def test_exactly_one_format_recognises_a_template(family: str) -> None:
    """That of its family: with two, it would depend on the order of registration."""
    assert [name for name, one in FORMATS.items() if one.recognises(TEMPLATES[family])] == [family]


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("{{ if .ToolCalls }}[TOOL_CALLS] [{{ range .ToolCalls }}{{ end }}]{{ end }}", "go_tag"),
        ('{{ if .ToolCalls }}{"name": "{{ .Name }}", "parameters": {}}<|start_header_id|>{{ end }}', "go_tag"),
        ("{{ if .ToolCalls }}<|tool▁calls▁begin｜>function<｜tool▁sep｜>\n```json\n{}\n```{{ end }}", "go_tag"),
        ("<|start|>system<|message|><|end|>{{ range .ToolCalls }}<|channel|>commentary{{ end }}", "harmony"),
        ("{{ if .ToolCalls }}<tool_call>\n<function={{ .Name }}>\n</function>\n</tool_call>{{ end }}", "qwen3_coder"),
        ("{{ if .System }}{{ .System }}{{ end }}{{ .Prompt }}", None),
    ],
)  # fmt: skip
def test_calls_of_go_templates_are_found_by_their_tag(text: str, family: str | None) -> None:
    """As in Ollama; only calls without JSON, and harmony, are read by their own formats."""
    template = TemplateText(kind="go", text=text)
    assert [name for name, one in FORMATS.items() if one.recognises(template)] == ([family] if family else [])


THINKING = {
    "seed": "<seed:think>",
    "glm": "<think>",
    "mistral": "[THINK]",
    "deepseek": "<think>",
    "deepseek_v31": "<think>",
    "deepseek_v32": "<think>",
    "minimax": "<think>",
    "gemma4": "<|channel>",
    "harmony": "<|channel|>analysis<|message|>",
    "cohere": "<|START_THINKING|>",
    "granite": "Here is my thought process:",
}


@pytest.mark.parametrize("family", sorted(FORMATS))
def test_at_most_one_parser_knows_the_thinking_of_a_template(family: str) -> None:
    """By the tags that the template mentions, or by harmony's channels."""
    found = [parser.think_tags(TEMPLATES[family]) for parser in (ThinkTagParsers(), HarmonyThinking())]
    assert [tags.start for tags in found if tags] == ([THINKING[family]] if family in THINKING else [])


@pytest.mark.parametrize("think", [None, True, "low", False])
def test_harmony_is_read_even_without_thinking(think: bool | str | None) -> None:
    """Its marks are around the answer as well; other thinking is not looked for with `think` false."""
    choice = ParserChoice({"think_tags": ThinkTagParsers(), "harmony_channels": HarmonyThinking()}, FORMATS)
    request, rendered = ChatRequest(messages=(), think=think), RenderedChat(prompt=())
    chosen = choice.choose(request, rendered, choice.recognise(TEMPLATES["harmony"]), "tiny")
    assert [type(one) for one in chosen.open(request)] == [HarmonyParser]
    assert {"<|start|>", "<|channel|>", "<|message|>", "<|end|>"} <= chosen.rendered.preserved_tokens
    other = choice.choose(request, rendered, choice.recognise(TEMPLATES["seed"]), "tiny")
    assert len(other.open(request)) == (think is not False)


def test_the_docs_list_all_formats() -> None:
    """docs/tool-calls.md has a row for each format, in the order of registration, and one for each pair of tags."""
    page = (Path(__file__).parents[2] / "docs" / "tool-calls.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(FORMATS)
    assert all(f"`{tags.start.replace('|', chr(92) + '|')}" in page for tags in KNOWN_THINK_TAGS)

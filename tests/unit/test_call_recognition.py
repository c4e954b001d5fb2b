"""Which built-in format of tool calls reads the answers of which models."""

from __future__ import annotations

import pytest

from corral.core.models.model import TemplateText
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

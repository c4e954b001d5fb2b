"""Which of two chat templates a model uses: the Go template in its manifest, or the Jinja template in its weights."""

from __future__ import annotations

import msgspec
import pytest

from corral.core.generation.template_choice import choose_template
from corral.core.models.effective_template import template_capabilities
from corral.core.models.manifest_or_weights import shown_template
from corral.core.models.model import Model, ModelMetadata, TemplateText

_TOOLS = "{% if tools %}{% endif %}"
_ROUND_TRIP = "{% if tools %}{{ message.tool_calls }}{% if message.role == 'tool' %}{% endif %}{% endif %}"
_THINKING = _TOOLS + "<think></think>"
_GO_TOOLS = "{{ range .Messages }}{{ .Role }}{{ end }}{{ .Tools }}"
_GO_ROUND_TRIP = '{{ range .Messages }}{{ if eq .Role "tool" }}{{ end }}{{ .ToolCalls }}{{ end }}{{ .Tools }}'


def _metadata(template: str | None) -> ModelMetadata:
    return ModelMetadata(
        format="gguf",
        architecture="llama",
        file_type="F16",
        parameter_count=1,
        tensor_bytes=2,
        chat_template=template,
    )


@pytest.mark.parametrize(
    ("own", "weights", "go_template", "kind"),
    [
        ("{{ .Prompt }}", "plain", None, "go"),
        ("{{ .Prompt }}", None, None, "go"),
        ("{{ .Prompt }}", _TOOLS, None, "jinja"),
        ("{{ .Prompt }}", _TOOLS, True, "go"),
        ("{{ .Prompt }}", "plain", False, "jinja"),
        ("{{ .Prompt }}", None, False, None),
        (_GO_TOOLS, _TOOLS, None, "go"),
        (_GO_TOOLS, _ROUND_TRIP, None, "jinja"),
        (_GO_ROUND_TRIP, _ROUND_TRIP, None, "go"),
        (_GO_ROUND_TRIP, _THINKING, None, "go"),
        (_GO_TOOLS, _THINKING, None, "jinja"),
        ("{{ .Broken", _TOOLS, None, "jinja"),
    ],
)
def test_the_better_template_is_used(own: str, weights: str | None, go_template: bool | None, kind: str | None) -> None:
    """The manifest's, unless the weights' one can do more or knows results of tools, or the setting decides."""
    model, metadata = Model(template=TemplateText(kind="go", text=own)), _metadata(weights)
    chosen = choose_template(model, metadata, ("go", "jinja"), go_template)
    assert (chosen and chosen.kind) == kind
    assert shown_template(model, metadata, go_template) == (chosen.text if chosen else "{{ .Prompt }}")


@pytest.mark.parametrize(
    ("text", "tools_text", "found"),
    [
        ("plain", _TOOLS, TemplateText(kind="jinja", text="plain", tools_text=_TOOLS)),
        (None, _TOOLS, TemplateText(kind="jinja", text=_TOOLS, tools_text=_TOOLS)),
    ],
)
def test_weights_with_a_separate_template_for_tools(text: str | None, tools_text: str, found: TemplateText) -> None:
    """They can do what either template can, but a Go template is compared with the usual one alone, as in Ollama."""
    metadata = msgspec.structs.replace(_metadata(text), tools_template=tools_text)
    assert choose_template(Model(), metadata, ("go", "jinja")) == found
    assert template_capabilities(found) == {"tools"}
    model = Model(template=TemplateText(kind="go", text=_GO_TOOLS))
    chosen = choose_template(model, msgspec.structs.replace(metadata, tools_template=_THINKING), ("go", "jinja"))
    assert chosen is not None
    assert chosen.kind == ("go" if text else "jinja")


def test_a_template_for_a_part_of_ollama_is_not_used() -> None:
    """Models whose chats are written by a renderer have a template that says little: the weights' is better."""
    model = Model(template=TemplateText(kind="go", text="{{ .Prompt }}"), renderer="qwen3-coder")
    chosen = choose_template(model, _metadata("plain"), ("go", "jinja"))
    assert chosen == TemplateText(kind="jinja", text="plain")

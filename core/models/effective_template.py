"""Which of two chat templates a model uses: the one in its manifest, or the one in its weights, which is always Jinja.

The manifest's goes first, except for a Go template if the weights' offers more, as in Ollama.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from corral.core.go.templates.chat_templates import parse_chat_template, thinking_tags, used_variables
from corral.core.go.templates.parser import TemplateSyntaxError
from corral.core.models.model import Model, ModelMetadata, TemplateText
from corral.core.requests.think_tags import think_tags_in

__all__ = ("LONGEST_TEMPLATE", "PLAIN_TEMPLATE", "template_capabilities", "templates_in_order")

LONGEST_TEMPLATE = 1 << 18
"""Characters. Longer templates are never rendered, and would delay lists of models."""

PLAIN_TEMPLATE = "{{ .Prompt }}"
"""What Ollama uses for models without a template, in Go's language."""

_REMEMBERED = 256
_CALLS = ("tool_calls", "assistant_tool_call")
_RESULTS = (
    "tool_response", "tool_results", "role'] == 'tool'", "role'] == \"tool\"", "role\"] == 'tool'", 'role"] == "tool"',
    "message.role == 'tool'", 'message.role == "tool"', "ipython",
)  # fmt: skip
_GO_RESULTS = ('eq .Role "tool"', "tool_response", "TOOL_RESULTS")


def templates_in_order(
    model: Model, metadata: ModelMetadata | None, go_template: bool | None = None
) -> Sequence[TemplateText]:
    """The templates that the model may use, the best first; empty if it has none.

    `go_template` says whether Go templates are used: True always, False never, None unless the weights' one is better.
    """
    own = model.template
    weights = _in_weights(metadata)
    if own is not None and own.kind == "go" and go_template is not True:
        if go_template is False:
            own = None
        elif weights is not None and (model.renderer or model.parser or _is_better(_alone(weights), own)):
            return weights, own
    return [text for text in (own, weights) if text is not None]


def _in_weights(metadata: ModelMetadata | None) -> TemplateText | None:
    """A template for chats with tools alone, as some merged weights have it, is the only one."""
    if metadata is None:
        return None
    text, tools_text = metadata.chat_template or "", metadata.tools_template or ""
    return TemplateText(kind="jinja", text=text or tools_text, tools_text=tools_text) if text or tools_text else None


@lru_cache(_REMEMBERED)
def template_capabilities(template: TemplateText) -> frozenset[str]:
    """What a template says about its model: ``tools``, ``thinking``, ``insert``."""
    texts = (template.text, template.tools_text)
    if max(map(len, texts)) > LONGEST_TEMPLATE:
        return frozenset()
    if template.kind == "go":
        return _go_capabilities(template.text)
    found = {"tools"} if any("tools" in text or "tool_call" in text for text in texts) else set()
    if any(think_tags_in(text) is not None for text in texts):
        found.add("thinking")
    return frozenset(found)


def _go_capabilities(text: str) -> frozenset[str]:
    if not any(name in text for name in (".Tools", ".Suffix", ".Thinking", "$.")):
        return frozenset()  # parsing takes milliseconds
    try:
        tree = parse_chat_template(text)
    except TemplateSyntaxError:
        return frozenset()
    variables = used_variables(tree)
    found = {meaning for name, meaning in (("tools", "tools"), ("suffix", "insert")) if name in variables}
    if all(thinking_tags(tree)):
        found.add("thinking")
    return frozenset(found)


def _alone(template: TemplateText) -> TemplateText:
    """Without the separate template for tools, which Ollama does not compare."""
    return TemplateText(kind=template.kind, text=template.text)


def _is_better(weights: TemplateText, own: TemplateText) -> bool:
    """Whether the template in the weights can do more, or writes the results of tools where the other one does not."""
    offered, given = template_capabilities(weights), template_capabilities(own)
    if len(offered) > len(given):
        return not _go_writes_results(own.text) or _writes_results(weights.text)
    if offered != given or "tools" not in offered:
        return False
    return _writes_results(weights.text) and not _go_writes_results(own.text)


def _writes_results(text: str) -> bool:
    return any(name in text for name in _CALLS) and any(name in text for name in _RESULTS)


def _go_writes_results(text: str) -> bool:
    return ".Tools" in text and ".ToolCalls" in text and any(name in text for name in _GO_RESULTS)

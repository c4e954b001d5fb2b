"""The chat language Jinja; its library is imported for the first template, since most commands never compile one."""

from __future__ import annotations

from corral.core.models.model import ModelMetadata, TemplateText
from corral.core.ports.chat import ChatFormat

__all__ = ("JinjaLanguage",)


class JinjaLanguage:
    """Compiles Jinja. A `ChatLanguage`."""

    def compile(self, text: TemplateText, metadata: ModelMetadata | None) -> ChatFormat:
        """The BOS and EOS tokens are those of the `TemplateText`, or else those of the weights."""
        from corral.adapters.templates.jinja import JinjaFormat
        from corral.adapters.templates.tool_use import ToolUseFormat

        bos_text = text.bos_text or (metadata.bos_text if metadata else "")
        eos_text = text.eos_text or (metadata.eos_text if metadata else "")
        plain = JinjaFormat(text.text, bos_text=bos_text, eos_text=eos_text)
        if text.tools_text in ("", text.text):
            return plain
        return ToolUseFormat(plain, JinjaFormat(text.tools_text, bos_text=bos_text, eos_text=eos_text))

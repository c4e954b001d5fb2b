"""The chat language of Go's ``text/template``; its parts are imported for the first template."""

from __future__ import annotations

from corral.core.models.model import ModelMetadata, TemplateText
from corral.core.ports.chat import ChatFormat

__all__ = ("GoLanguage",)


class GoLanguage:
    """Compiles Go templates. A `ChatLanguage`."""

    def compile(self, text: TemplateText, metadata: ModelMetadata | None) -> ChatFormat:
        from corral.adapters.templates.go.chat_format import GoFormat

        return GoFormat(text.text)

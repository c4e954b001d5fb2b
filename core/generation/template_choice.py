"""Which text a model's chats are rendered with, out of those that its manifest and its weights have."""

from __future__ import annotations

from collections.abc import Container

from corral.core.models.model import Model, ModelMetadata, TemplateText

__all__ = ("choose_template",)


def choose_template(model: Model, metadata: ModelMetadata | None, languages: Container[str]) -> TemplateText | None:
    """The manifest's template goes before the one in the weights, which is written in Jinja.

    A text in a language that is not among `languages` is passed over. None if no text is left.
    """
    texts = [] if model.template is None else [model.template]
    if metadata is not None and metadata.chat_template:
        texts.append(TemplateText(kind="jinja", text=metadata.chat_template))
    return next((text for text in texts if text.kind in languages), None)

"""Chooses which template a model's chats are rendered with: one in its manifest, or the one in its weights."""

from __future__ import annotations

from collections.abc import Container

from corral.core.models.model import Model, ModelMetadata, TemplateText

__all__ = ("choose_template",)


def choose_template(model: Model, metadata: ModelMetadata | None, languages: Container[str]) -> TemplateText | None:
    """The manifest's template takes precedence over the one in the weights, which is always Jinja.

    Templates in a language that is not in `languages` are skipped. None if no template remains. What is shown to
    people (`shown_template`) does not depend on the installed languages.
    """
    texts = [] if model.template is None else [model.template]
    if metadata is not None and metadata.chat_template:
        texts.append(TemplateText(kind="jinja", text=metadata.chat_template))
    return next((text for text in texts if text.kind in languages), None)

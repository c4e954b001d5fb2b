"""Chooses which template a model's chats are rendered with, among those in languages that are installed."""

from __future__ import annotations

from collections.abc import Container

from corral.core.models.effective_template import templates_in_order
from corral.core.models.model import Model, ModelMetadata, TemplateText

__all__ = ("choose_template",)


def choose_template(
    model: Model, metadata: ModelMetadata | None, languages: Container[str], go_template: bool | None = None
) -> TemplateText | None:
    """The best template in one of the `languages`; None if there is none. `go_template`: see `templates_in_order`.

    What is shown to people (`shown_template`) does not depend on the installed languages.
    """
    return next((text for text in templates_in_order(model, metadata, go_template) if text.kind in languages), None)

"""Describes a model by its manifest, and by the header of its weights for what the manifest leaves out."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from corral.core.models.effective_template import PLAIN_TEMPLATE, templates_in_order
from corral.core.models.model import Model, ModelMetadata, parameter_size_text

__all__ = ("completed", "described_by_manifest", "shown_template")

M = TypeVar("M", bound=Model)


def completed(model: M, metadata: ModelMetadata | None) -> M:
    """The model, with the fields that its manifest leaves empty filled from the header of its weights.

    This does not include the template: see `shown_template`.
    """
    family = model.family or (metadata.architecture if metadata else "")
    families = model.families or ((family,) if family else ())
    if metadata is None:
        return msgspec.structs.replace(model, families=families)
    return msgspec.structs.replace(
        model,
        format=model.format or metadata.format,
        family=family,
        families=families,
        parameter_size=model.parameter_size or parameter_size_text(metadata.parameter_count),
        quantization=model.quantization or metadata.file_type,
        context_length=model.context_length or metadata.context_length,
        embedding_length=model.embedding_length or metadata.embedding_length,
    )


def described_by_manifest(model: Model) -> dict[str, object]:
    """What is known of a model whose weights no reader knows, or are elsewhere, under the names of GGUF's keys."""
    if not model.family:
        return {}
    known = {"context_length": model.context_length, "embedding_length": model.embedding_length}
    lengths = {f"{model.family}.{key}": length for key, length in known.items() if length is not None}
    named = {"general.basename": model.base_name} if model.base_name else {}
    return {"general.architecture": model.family, **named, **lengths}


def shown_template(model: Model, metadata: ModelMetadata | None, go_template: bool | None = None) -> str:
    """The chat template that is shown to people: the one that is used.

    Chats may use another one, if no installed plugin knows the language of this one: see `choose_template`.
    """
    return next((text.text for text in templates_in_order(model, metadata, go_template)), PLAIN_TEMPLATE)

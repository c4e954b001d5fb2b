"""What a model can do, in Ollama's words, derived from its manifest, its weights' header and its template."""

from __future__ import annotations

from corral.core.models.effective_template import template_capabilities, templates_in_order
from corral.core.models.model import ModelMetadata, StoredModel, TemplateText

__all__ = ("CAPABILITIES", "derive_capabilities", "template_fills_in")

CAPABILITIES = ("completion", "tools", "insert", "vision", "embedding", "rerank", "thinking", "image", "audio")
"""Every capability, in the order in which they are listed."""

_POOLED = {None: "completion", "rank": "rerank"}
"""What a model does, by its pooling. All other kinds make vectors of texts."""


def derive_capabilities(
    record: StoredModel,
    metadata: ModelMetadata | None,
    projector: ModelMetadata | None,
    go_template: bool | None = None,
) -> tuple[str, ...]:
    """The capabilities, in the order of `CAPABILITIES`; unknown ones from a manifest come last.

    `go_template` is that of `templates_in_order`.
    """
    found = set(record.capabilities)
    if metadata is not None:
        found.add(_POOLED.get(metadata.pooling, "embedding"))
        if metadata.fim_ids is not None:
            found.add("insert")
        for kind in ("vision", "audio"):
            if metadata.keys.get(f"{metadata.architecture}.{kind}.block_count"):
                found.add(kind)
    if record.files_of("projector"):
        audio = projector is not None and bool(projector.keys.get("clip.has_audio_encoder"))
        vision = projector is None or projector.keys.get("clip.has_vision_encoder") is not False
        found |= {kind for kind, present in (("vision", vision or not audio), ("audio", audio)) if present}
    templates = templates_in_order(record, metadata, go_template)
    if templates:
        found |= template_capabilities(templates[0])
    if (metadata.architecture if metadata else record.family) in ("gptoss", "gpt-oss"):
        found.add("thinking")
    return (*(name for name in CAPABILITIES if name in found), *sorted(found.difference(CAPABILITIES)))


def template_fills_in(template: TemplateText | None) -> bool:
    """Whether a template has a place for a suffix."""
    return template is not None and "insert" in template_capabilities(template)

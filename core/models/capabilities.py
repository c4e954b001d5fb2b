"""What a model can do, in Ollama's words, derived from its manifest, its weights' header and its template."""

from __future__ import annotations

import re

from corral.core.models.manifest_or_weights import shown_template
from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.requests.think_tags import think_tags_in

__all__ = ("CAPABILITIES", "derive_capabilities", "template_fills_in")

CAPABILITIES = ("completion", "tools", "insert", "vision", "embedding", "thinking", "image", "audio")
"""Every capability, in the order in which they are listed."""

_GO_FIELD = re.compile(r"[.$](Tools|Suffix|Thinking)\b")
_TEMPLATE_LIMIT = 1 << 18  # characters; longer ones are never rendered, and would delay lists of models
_GO_MEANING = {"Tools": "tools", "Suffix": "insert", "Thinking": "thinking"}


def derive_capabilities(
    record: StoredModel, metadata: ModelMetadata | None, projector: ModelMetadata | None
) -> tuple[str, ...]:
    """The capabilities, in the order of `CAPABILITIES`; unknown ones from a manifest come last."""
    found = set(record.capabilities)
    if metadata is not None:
        found.add("completion" if metadata.pooling is None else "embedding")
        if metadata.fim_ids is not None:
            found.add("insert")
        for kind in ("vision", "audio"):
            if metadata.keys.get(f"{metadata.architecture}.{kind}.block_count"):
                found.add(kind)
    if record.files_of("projector"):
        audio = projector is not None and bool(projector.keys.get("clip.has_audio_encoder"))
        vision = projector is None or projector.keys.get("clip.has_vision_encoder") is not False
        found |= {kind for kind, present in (("vision", vision or not audio), ("audio", audio)) if present}
    found |= _from_template(record, metadata)
    if (metadata.architecture if metadata else record.family) in ("gptoss", "gpt-oss"):
        found.add("thinking")
    return (*(name for name in CAPABILITIES if name in found), *sorted(found.difference(CAPABILITIES)))


def template_fills_in(record: StoredModel) -> bool:
    """Whether the manifest's template has a place for a suffix."""
    return record.template is not None and record.template.kind == "go" and "insert" in _from_template(record, None)


def _from_template(record: StoredModel, metadata: ModelMetadata | None) -> set[str]:
    """From the manifest's template, or without one, from the template inside the weights."""
    text = shown_template(record, metadata)
    if len(text) > _TEMPLATE_LIMIT:
        return set()
    if record.template is not None and record.template.kind == "go":
        # In pieces: a regular expression for both brackets would take quadratic time if they are never closed.
        actions = (piece.partition("}")[0] for piece in text.split("{{")[1:])
        return {_GO_MEANING[field] for action in actions for field in _GO_FIELD.findall(action)}
    found = set()
    if "tools" in text or "tool_call" in text:
        found.add("tools")
    if think_tags_in(text) is not None:
        found.add("thinking")
    return found

"""Tells users which parts of a model's manifest Corral does not use."""

from __future__ import annotations

from corral.core.models.model import StoredModel

__all__ = ("unused_parts",)


def unused_parts(record: StoredModel) -> tuple[str, ...]:
    """One phrase for each part; empty if everything is used. A part without which the answers would be another model's
    is not among them: such a model is refused (`corral.core.scheduling.engine_choice`)."""
    found = []
    for name, value in (("renderer", record.renderer), ("parser", record.parser)):
        if value:
            found.append(f"the {name} {value!r}, which is built into Ollama: Corral uses the chat template instead")
    if record.files_of("draft"):
        found.append("the draft model, unless texts need not be exact (engines.llama-cpp.exact = false)")
    kinds = dict.fromkeys(file.media_type for file in record.files_of("other") if file.path is None)
    found += [f"a layer of the unknown type {kind!r}" for kind in kinds]
    return tuple(found)

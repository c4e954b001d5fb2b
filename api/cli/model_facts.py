"""The facts about a model that ``show`` prints, taken from the store or from a server's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from corral.api.cli.output import PADDING, echo
from corral.api.library import Corral
from corral.api.library.results import ModelDetails
from corral.api.modelfile.showing import modelfile_text, parameters_text
from corral.core.errors import CorralError
from corral.core.models.manifest_or_weights import completed
from corral.core.models.model import StoredModel, parameter_size_text
from corral.core.wording.printable import one_line

__all__ = ("ModelFacts", "facts_of_details", "facts_of_reply", "print_facts")

_LICENSE_LINES = 2


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Plain data, ready to be printed. Unknown fields are empty."""

    name: str
    architecture: str = ""
    parameter_size: str = ""
    context_length: int = 0
    embedding_length: int = 0
    quantization: str = ""
    converted_from: str = ""
    requires: str = ""
    remote_model: str = ""
    remote_host: str = ""
    capabilities: tuple[str, ...] = ()
    parameters: str = ""
    template: str = ""
    system: str = ""
    license: str = ""
    modelfile: str = ""
    projector: Mapping[str, object] = {}
    messages: tuple[Mapping[str, str], ...] = ()

    @property
    def embeds_only(self) -> bool:
        """Whether the model produces only embeddings, and no text."""
        return self.can("embedding") and not self.can("completion")

    @property
    def takes_files(self) -> bool:
        """Whether the model sees or hears."""
        return self.can("vision") or self.can("audio")

    def can(self, capability: str) -> bool:
        return capability in self.capabilities


def facts_of_details(corral: Corral, details: ModelDetails) -> ModelFacts:
    """The facts from the store."""
    catalog = corral.runtime().catalog
    record = completed(details.record, details.metadata)
    return ModelFacts(
        name=record.name.short,
        architecture=record.family,
        parameter_size=record.parameter_size,
        context_length=record.context_length or 0,
        embedding_length=record.embedding_length or 0,
        quantization=record.quantization,
        converted_from=record.converted_from or "",
        requires=record.requires or "",
        remote_model=record.remote.model if record.remote else "",
        remote_host=record.remote.host if record.remote else "",
        capabilities=details.capabilities,
        parameters=parameters_text(record.parameters),
        template=details.template,
        system=record.system or "",
        license="\n".join(record.licenses),
        modelfile=modelfile_text(
            record,
            catalog.local_files(record),
            template=record.template.text if record.template else "",
            system=record.system or "",
            parameters=record.parameters,
        ),
        projector=_projector(corral, record),
        messages=tuple({"role": message.role, "content": message.content} for message in record.messages),
    )


def facts_of_reply(name: str, reply: Mapping[str, Any]) -> ModelFacts:
    """The facts from a server's ``/api/show``."""
    details = reply.get("details", {})
    return ModelFacts(
        name=name,
        architecture=details.get("family", ""),
        parameter_size=details.get("parameter_size", ""),
        context_length=details.get("context_length", 0),
        embedding_length=details.get("embedding_length", 0),
        quantization=details.get("quantization_level", ""),
        requires=reply.get("requires", ""),
        remote_model=reply.get("remote_model", ""),
        remote_host=reply.get("remote_host", ""),
        capabilities=tuple(reply.get("capabilities") or ()),
        parameters=reply.get("parameters", ""),
        template=reply.get("template", ""),
        system=reply.get("system", ""),
        license=reply.get("license", ""),
        modelfile=reply.get("modelfile", ""),
        projector=reply.get("projector_info", {}),
        messages=tuple(
            {"role": message["role"], "content": message.get("content", "")} for message in reply.get("messages") or ()
        ),
    )


def print_facts(facts: ModelFacts, *, more: Sequence[tuple[str, Sequence[tuple[str, str]]]] = ()) -> None:
    """Prints Ollama's sections, and the sections in `more`."""
    model = [
        ("Remote model", facts.remote_model),
        ("Remote URL", facts.remote_host),
        ("architecture", facts.architecture),
        ("parameters", facts.parameter_size),
        ("context length", str(facts.context_length or "")),
        ("embedding length", str(facts.embedding_length or "")),
        ("quantization", facts.quantization),
        ("requires", facts.requires),
    ]
    _print_section("Model", [(label, value) for label, value in model if value])
    _print_section("Capabilities", [(capability, "") for capability in facts.capabilities])
    _print_section("Projector", _projector_rows(facts.projector))
    parameters = [line.split(maxsplit=1) for line in facts.parameters.splitlines()]
    _print_section("Parameters", [(words[0], words[1] if len(words) > 1 else "") for words in parameters if words])
    for title, rows in more:
        _print_section(title, rows)
    _print_section("System", [(line, "") for line in facts.system.splitlines()])
    lines = [line for line in facts.license.splitlines() if line.strip()]
    rows = [(line.strip(), "") for line in lines[:_LICENSE_LINES]]
    _print_section("License", [*rows, ("...", "")] if len(lines) > _LICENSE_LINES else rows)


def _projector(corral: Corral, record: StoredModel) -> Mapping[str, object]:
    """The projector's metadata; empty if there is none, or it cannot be read."""
    catalog = corral.runtime().catalog
    try:
        return corral.call(lambda _: catalog.describe_projector(record, verbose=False))
    except CorralError:
        return {}


def _projector_rows(projector: Mapping[str, object]) -> list[tuple[str, str]]:
    architecture = projector.get("general.architecture", "")
    count = projector.get("general.parameter_count")
    rows = [
        ("architecture", architecture),
        ("parameters", parameter_size_text(count) if isinstance(count, int) else ""),
    ]
    for label, suffix in (("embedding length", "embedding_length"), ("dimensions", "projection_dim")):
        found = (projector.get(f"{architecture}.{kind}.{suffix}") for kind in ("vision", "audio"))
        rows.append((label, next((value for value in found if value is not None), "")))
    return [(label, str(value)) for label, value in rows if value != ""]


def _print_section(title: str, rows: Sequence[tuple[str, str]]) -> None:
    if not rows:
        return
    width = max(len(one_line(label)) for label, _ in rows) + PADDING
    echo(f"  {title}")
    for label, value in rows:
        echo(f"    {one_line(label):<{width}}{one_line(value)}".rstrip())
    echo()

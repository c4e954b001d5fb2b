"""``corral show``: prints everything the store knows about a model."""

from __future__ import annotations

from typing import Any

import click

from corral.api.cli.model_facts import facts_of_details, print_facts
from corral.api.cli.model_names import names_in, suggesting
from corral.api.cli.output import echo_content, human_bytes, iso_time, print_json
from corral.api.cli.parameters import ModelText
from corral.api.cli.session import Session
from corral.api.library import Corral
from corral.api.library.results import ModelDetails
from corral.core.errors import CorralError
from corral.core.models.unused_parts import unused_parts
from corral.plugins.assembly import engine_chooser

__all__ = ("show",)

_ONE_PART = "only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be specified"


@click.command()
@click.argument("model", type=ModelText())
@click.option("--license", "parts", flag_value="license", multiple=True, help="Print its full license.")
@click.option(
    "--modelfile", "parts", flag_value="modelfile", multiple=True, help="Print a Modelfile that recreates it."
)
@click.option("--parameters", "parts", flag_value="parameters", multiple=True, help="Print its parameters.")
@click.option("--system", "parts", flag_value="system", multiple=True, help="Print its system prompt.")
@click.option("--template", "parts", flag_value="template", multiple=True, help="Print its chat template.")
@click.option("-v", "--verbose", is_flag=True, help="Also show the metadata and tensors of the weights.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def show(session: Session, model: str, parts: tuple[str, ...], verbose: bool, as_json: bool) -> None:
    """Show the details of MODEL, which engines can run it, and its state on a server that has loaded it."""
    flags = [f"--{part}" for part in dict.fromkeys(parts)]
    others = [flag for flag, given in (("--verbose", verbose), ("--json", as_json)) if given]
    if len(flags) > 1 and not others:
        raise click.UsageError(_ONE_PART)
    if len(flags) > 1 or (flags and others):
        raise click.UsageError(f"{' and '.join((*flags, *others))} exclude each other: give only one of them")
    part = parts[0] if parts else None
    with session.library() as corral, suggesting(model, lambda: names_in(corral)):
        details = corral.show(model)
        facts = facts_of_details(corral, details)
        tuned = _tuned_rows(corral, details)
        described = _describe(corral, details) if verbose or as_json else {}
        tensors = _tensors(corral, details) if verbose else []
    if part is not None:
        echo_content(getattr(facts, part), nl=part != "modelfile")
        return
    candidates = engine_chooser(session.settings, session.manager).candidates(details.record, details.metadata)
    engines = [
        (one.spec.name, f"{one.match.reason}; {one.missing}" if one.missing else one.match.reason)
        for one in candidates
        if one.match.score > 0
    ]
    loaded = _loaded(session, details.record.digest)
    if as_json:
        plain = {field: getattr(facts, field) for field in facts.__struct_fields__}
        record = details.record
        print_json(
            plain
            | {"parameters": record.parameters, "digest": record.digest, "size_bytes": record.size_bytes}
            | {"modified_at": iso_time(record.modified_at), "engines": dict(engines), "model_info": described}
            | {"loaded": loaded, "unused": unused_parts(record)}
            | (
                {"tensors": [dict(zip(("name", "type", "shape"), one, strict=True)) for one in tensors]}
                if verbose
                else {}
            )
        )
        return
    refusals = [(one.spec.name, one.match.reason) for one in candidates]
    more = [
        ("Engines", engines) if engines else ("No engine can run it", refusals),
        ("Converted", _converted_rows(details)),
        ("Adapters", _adapter_rows(details)),
        ("Loaded instead", tuned),
        ("Not used", [(part, "") for part in unused_parts(details.record)]),
        ("Loaded", _loaded_rows(loaded) if loaded else []),
    ]
    if verbose:
        more.append(("Metadata", [(key, str(value)) for key, value in described.items() if value is not None]))
        more.append(("Tensors", [(name, f"{kind:<8}{list(shape)}") for name, kind, shape in tensors]))
    print_facts(facts, more=more)


def _loaded(session: Session, digest: str) -> dict[str, Any] | None:
    """How a Corral server runs the model; None if no server is up, or it has not loaded the model."""
    server = session.server()
    try:
        models = server.call("GET", "/api/ps")["models"] if server.state() == "corral" else []
    except CorralError:
        return None
    ours = (model["corral"] for model in models if model["digest"] == digest.removeprefix("sha256:"))
    return next(ours, None)


def _loaded_rows(loaded: dict[str, Any]) -> list[tuple[str, str]]:
    where = f" {loaded['process_id']}" if loaded["process_id"] else ""
    return [
        ("engine", loaded["engine"]),
        ("runner", f"{loaded['runner']}{where}"),
        *((f"memory on {device}", human_bytes(size)) for device, size in loaded["memory_bytes"].items()),
        *loaded["details"].items(),
    ]


def _converted_rows(details: ModelDetails) -> list[tuple[str, str]]:
    weights = details.record.weights
    if details.record.converted_from is None or weights is None:
        return []
    return [("from", details.record.converted_from), ("size", human_bytes(weights.size_bytes))]


def _adapter_rows(details: ModelDetails) -> list[tuple[str, str]]:
    adapters = details.record.files_of("adapter")
    return [(one.digest, f"scale {one.scale:g}, {human_bytes(one.size_bytes)}") for one in adapters]


def _tuned_rows(corral: Corral, details: ModelDetails) -> list[tuple[str, str]]:
    """What engines load in place of the weights, since the model was tuned."""
    rows = []
    for engine, tuned in corral.tuned(details.record.name.full).items():
        if tuned.weights is not None and tuned.weights != details.record.weights:
            rows.append((engine, f"{tuned.quantization}, {human_bytes(tuned.weights.size_bytes)} (corral tune)"))
    return rows


def _describe(corral: Corral, details: ModelDetails) -> dict[str, object]:
    """The weights' metadata; empty if they cannot be read, since the rest is still worth showing."""
    catalog = corral.runtime().catalog
    try:
        return corral.call(lambda _: catalog.describe(details.record, verbose=False))
    except CorralError:
        return {}


def _tensors(corral: Corral, details: ModelDetails) -> list[tuple[str, str, tuple[int, ...]]]:
    catalog = corral.runtime().catalog
    try:
        return corral.call(lambda _: catalog.tensors(details.record))
    except CorralError:
        return []

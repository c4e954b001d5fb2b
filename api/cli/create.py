"""``corral create``: creates a model from a Modelfile, on a server or in the store of this machine."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import click
import msgspec

from corral.api.cli.client import ServerClient
from corral.api.cli.create_on_server import create_on_server
from corral.api.cli.output import echo, print_json, print_record
from corral.api.cli.parameters import NewName
from corral.api.cli.progress import transfer_progress
from corral.api.cli.replacing import digest_in, digest_of, tell_replaced
from corral.api.cli.server_choice import running_server
from corral.api.cli.server_records import record_on_server
from corral.api.cli.session import Session
from corral.api.cli.transfers import ServerTransfers
from corral.api.modelfile.create_calls import call_of, retired_parameters
from corral.api.modelfile.parsing import decode_modelfile, parse_modelfile
from corral.core.catalog.checkpoints import is_checkpoint
from corral.core.catalog.create_calls import CreateCall
from corral.core.catalog.given_files import refuse_unconverted
from corral.core.errors import CorralError, InvalidRequest, NotFound
from corral.core.models.names import parse_name
from corral.core.ports.sources import FetchProgress

__all__ = ("create",)

_DEFAULT = "Modelfile"


@click.command()
@click.argument("model", type=NewName())
@click.option("-f", "--file", "path", type=click.Path(), help="The Modelfile; - reads it from standard input.")
@click.option("-q", "--quantize", default="", metavar="TYPE", help="Quantize the weights, such as q4_K_M.")
@click.option("--draft-quantize", default="", metavar="TYPE", help="Quantize the draft model.")
@click.option("--local", is_flag=True, help="Create it in this machine's store, even if a server is running.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def create(
    session: Session, model: str, path: str | None, quantize: str, draft_quantize: str, local: bool, as_json: bool
) -> None:
    """Create MODEL from a Modelfile: ./Modelfile, or else from the GGUF files in the current folder.

    The Corral server at CORRAL_HOST creates it if one is up: files that it does not have are uploaded. Otherwise it is
    created in the store of this machine, which shares the files' disk space where possible.
    """
    call = msgspec.structs.replace(_read(model, path), quantize=quantize, draft_quantize=draft_quantize)
    if draft_quantize and not call.draft_files:
        raise InvalidRequest("--draft-quantize requires a DRAFT model")
    converted = (call.files or {}, *(adapter.files for adapter in call.adapters))
    for files in (call.draft_files, *(files for files in converted if not is_checkpoint(files))):
        refuse_unconverted(files)
    server = None if local else running_server(session, "creating the model in this process")
    name = call.name.short
    with transfer_progress() as show:
        show(FetchProgress(status="gathering model components"))
        if server is not None:
            before: str | None = _digest_on(server, name)
            create_on_server(server, call, show)
            now: str | None = _digest_on(server, name)
        else:
            with session.library() as corral:
                creator, before = corral.runtime().catalog.creator, digest_of(corral, call.name)
                record = corral.call(lambda _: creator.create(call, show))
            now = record.digest
    if as_json and server is None:
        print_record(record)
    elif as_json and server is not None:
        print_json(record_on_server(server, name) | {"server": server.address.url})
    else:
        where = f" on the server at {server.address.url}" if server else ""
        echo(f"created {name}{where}")
    tell_replaced(name, before, now)


def _digest_on(server: ServerClient, name: str) -> str | None:
    """Of the model that the server has under this name; None also if it does not list its models."""
    with suppress(CorralError):
        return digest_in(ServerTransfers(server).models(), name)
    return None


def _read(model: str, path: str | None) -> CreateCall:
    """What the Modelfile says. Raises as `parse_modelfile` and `call_of`."""
    if path == "-":
        text, folder = decode_modelfile(sys.stdin.buffer.read()), Path()
    elif path is None and not Path(_DEFAULT).is_file():
        text, folder = "FROM .\n", Path()
    else:
        file = Path(path or _DEFAULT)
        try:
            text, folder = decode_modelfile(file.read_bytes()), file.parent
        except FileNotFoundError as error:
            raise NotFound("specified Modelfile wasn't found", f"there is no file {file}") from error
    modelfile = parse_modelfile(text)
    call = call_of(modelfile, parse_name(model), folder)
    for name in retired_parameters(modelfile):
        echo(f"warning: parameter {name} is deprecated", err=True)
    return call

"""``corral upstream``: adds models that run on another server."""

from __future__ import annotations

import click

from corral.api.cli.output import echo, print_record
from corral.api.cli.parameters import Capability, NewName
from corral.api.cli.replacing import digest_of, tell_replaced
from corral.api.cli.session import Session
from corral.core.models.names import parse_name

__all__ = ("upstream",)


@click.command()
@click.argument("name", type=NewName())
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("--model", help="The model's name on the server; may be left out if the server has only one.")
@click.option(
    "--api",
    type=click.Choice(["openai", "vllm", "sglang", "llama-server", "ollama", "corral"]),
    help="The server's API; detected by default.",
)
@click.option(
    "--capability",
    "capabilities",
    type=Capability(),
    multiple=True,
    help="Capabilities to assume when the server does not report them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def upstream(
    session: Session,
    name: str,
    urls: tuple[str, ...],
    model: str | None,
    api: str | None,
    capabilities: tuple[str, ...],
    as_json: bool,
) -> None:
    """Add NAME, a model that the server at URL runs: vLLM, Ray Serve LLM, SGLang, llama-server, Ollama or Corral.

    With several URLs, each request goes to the least busy server; if that one is down, to another. API keys belong in
    the settings: see docs/upstream.md.
    """
    with session.library() as corral:
        catalog = corral.runtime().catalog
        before = digest_of(corral, parse_name(name))
        record = corral.call(
            lambda _: catalog.add_upstream(parse_name(name), urls, model=model, api=api, capabilities=capabilities)
        )
    tell_replaced(record.name.short, before, record.digest)
    if as_json:
        print_record(record)
        return
    remote = record.remote
    assert remote is not None
    more = f" and {len(remote.replicas)} more" if remote.replicas else ""
    echo(f"added {record.name.short}: {remote.model} at {remote.host}{more}")

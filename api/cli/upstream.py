"""``corral upstream``: models that live behind another server."""

from __future__ import annotations

import click

from corral.api.cli.output import echo, print_record
from corral.api.cli.parameters import Capability, NewName
from corral.api.cli.session import Session
from corral.core.names import parse_name

__all__ = ("upstream",)


@click.command()
@click.argument("name", type=NewName())
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("--model", help="The model's name on the server; without it the only one that is there.")
@click.option(
    "--api",
    type=click.Choice(["openai", "vllm", "sglang", "llama-server", "ollama", "corral"]),
    help="What the server speaks; found out by default.",
)
@click.option(
    "--capability",
    "capabilities",
    type=Capability(),
    multiple=True,
    help="What the model can do, where its server tells not.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
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
    """Make NAME a model that the server at URL runs: vLLM, Ray Serve LLM, SGLang, llama-server, Ollama, Corral.

    With several URLs each request goes to the least busy one, and to another where one is gone. Keys are settings: see
    docs/upstream.md.
    """
    with session.library() as corral:
        catalog = corral.runtime().catalog
        record = corral.call(
            lambda _: catalog.add_upstream(parse_name(name), urls, model=model, api=api, capabilities=capabilities)
        )
    if as_json:
        print_record(record)
        return
    more = f" and {len(record.remote_replicas)} more" if record.remote_replicas else ""
    echo(f"added {record.name.short}: {record.remote_model} at {record.remote_host}{more}")

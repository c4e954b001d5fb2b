"""``corral cache``: shows and clears the prefixes of prompts that engines have kept on disk."""

from __future__ import annotations

import click

from corral.api.cli.output import echo, human_bytes, human_time, plain, print_json, print_table
from corral.api.cli.parameters import ModelText
from corral.api.cli.session import Session
from corral.core.models.digests import short_digest

__all__ = ("cache",)


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_context
def cache(context: click.Context, as_json: bool) -> None:
    """Show the prefixes of prompts that engines have kept on disk, by model. `corral ps` shows those in memory."""
    if context.invoked_subcommand is not None:
        return
    session = context.find_object(Session)
    assert session is not None
    with session.library() as corral:
        kept = corral.kept_prefixes()
    if as_json:
        print_json([plain(model) for model in kept])
        return
    rows = [
        (
            model.model,
            short_digest(model.weights),
            str(model.entries),
            str(model.tokens),
            human_bytes(model.size_bytes),
            human_time(model.used_at),
        )
        for model in kept
    ]
    print_table(("MODEL", "WEIGHTS", "PREFIXES", "TOKENS", "SIZE", "USED"), rows)


@cache.command()
@click.argument("model", required=False, type=ModelText())
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def clear(session: Session, model: str | None, as_json: bool) -> None:
    """Delete the prefixes of MODEL, or of all models.

    A server may be running: models that it has loaded forget those in memory too, within seconds.
    """
    with session.library() as corral:
        count, freed_bytes = corral.clear_prefixes(model)
    if as_json:
        print_json({"removed": count, "removed_bytes": freed_bytes})
    else:
        echo(f"cleared {count} prefixes, freed {human_bytes(freed_bytes)}")

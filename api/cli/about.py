"""``corral engines``, ``plugins`` and ``config``: what this installation is made of."""

from __future__ import annotations

import click
import msgspec

from corral.api.cli.output import print_json, print_table
from corral.api.cli.session import Session

__all__ = ("config", "engines", "plugins")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON array.")
@click.option("--verbose", is_flag=True, help="With the load options of each.")
@click.pass_obj
def engines(session: Session, as_json: bool, verbose: bool) -> None:
    """List the engines, their versions, and what one that cannot run still needs."""
    with session.library() as corral:
        found = corral.runtime().engines
    if as_json:
        print_json([_plain(engine) for engine in found])
        return
    print_table(
        ("NAME", "AVAILABLE", "VERSION", "RUNNERS", "SUMMARY"),
        [
            (
                engine.name,
                "yes" if engine.available else "no",
                engine.version or "-",
                ", ".join(engine.runners),
                engine.summary,
            )
            for engine in found
        ],
    )
    for engine in found:
        if not engine.available:
            click.echo(
                f"\n{engine.name}: {engine.reason}" + (f"; {engine.install_hint}" if engine.install_hint else "")
            )
    if verbose:
        for engine in found:
            click.echo(f"\n{engine.name}")
            for option in engine.load_options:
                click.echo(f"    {option.name} = {option.default}  ({option.kind})")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON array.")
@click.pass_obj
def plugins(session: Session, as_json: bool) -> None:
    """List the plugins found, what they provide, and why one was skipped."""
    found = session.manager.statuses
    if as_json:
        print_json([_plain(plugin) for plugin in found])
        return
    print_table(
        ("NAME", "STATE", "DISTRIBUTION", "VERSION", "PROVIDES"),
        [
            (
                plugin.name,
                plugin.state,
                plugin.distribution or "-",
                plugin.version or "-",
                plugin.reason or ", ".join(plugin.provides),
            )
            for plugin in found
        ],
    )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON array.")
@click.pass_obj
def config(session: Session, as_json: bool) -> None:
    """Print every setting with its value and where that came from: a file, a variable, a flag, or the default."""
    rows = session.settings.origins
    if as_json:
        print_json(rows)
        return
    print_table(
        ("SETTING", "VALUE", "FROM"),
        [(row.path, msgspec.json.encode(row.value).decode(), row.origin) for row in rows],
    )


def _plain(value: msgspec.Struct) -> dict[str, object]:
    """All fields, those at their defaults too, and no tag."""
    return {field: _plain_item(getattr(value, field)) for field in value.__struct_fields__}


def _plain_item(value: object) -> object:
    if isinstance(value, msgspec.Struct):
        return _plain(value)
    return [_plain_item(item) for item in value] if isinstance(value, tuple) else value

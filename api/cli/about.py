"""``corral plugins`` and ``config``: prints the installed plugins and the effective settings."""

from __future__ import annotations

from contextlib import suppress

import click
import msgspec

from corral.api.cli.output import plain, print_json, print_table
from corral.api.cli.session import Session
from corral.core.errors import SettingsError
from corral.plugins.assembly import try_out

__all__ = ("config", "plugins")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def plugins(session: Session, as_json: bool) -> None:
    """List the installed plugins, what they provide, and why any were skipped."""
    with suppress(SettingsError):  # plugins can be listed even if the settings are invalid
        try_out(session.manager, session.settings)
    found = session.manager.statuses
    if as_json:
        print_json([plain(plugin) for plugin in found])
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
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def config(session: Session, as_json: bool) -> None:
    """Print every setting with its value and its origin: a file, a variable, a flag, or the default."""
    rows = session.settings.origins
    if as_json:
        print_json(rows)
        return
    print_table(
        ("SETTING", "VALUE", "FROM"),
        [(row.path, msgspec.json.encode(row.value).decode(), row.origin) for row in rows],
    )

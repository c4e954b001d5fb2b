"""``corral new-plugin``: creates a package for a new engine."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from corral.api.cli.output import echo
from corral.api.cli.parameters import wrong_value_of
from corral.api.cli.session import Session
from corral.core.errors import Conflict, InvalidName
from corral.core.wording.pip_lines import pip_line, python_line
from corral.plugins.assembly import ENGINES
from corral.plugins.scaffold import FORMS, plugin_names, write_plugin

__all__ = ("new_plugin",)


@click.command("new-plugin")
@click.argument("name")
@click.option(
    "--dir",
    "parent",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="FOLDER",
    help="Create the package's folder in FOLDER instead of the current one.",
)
@click.option(
    "--form",
    type=click.Choice(FORMS),
    default="generator",
    show_default=True,
    help="The engine's form: one request at a time, many in one step, or conversations with roles.",
)
@click.pass_obj
def new_plugin(session: Session, name: str, parent: Path, form: str) -> None:
    """Create a Python package for your own engine, ready to test."""
    with wrong_value_of("NAME", InvalidName):
        names = plugin_names(name)
    manager = session.manager
    if names.engine in {spec.name for spec in manager.specs(ENGINES)} | {status.name for status in manager.statuses}:
        raise Conflict(f"there is an engine or plugin called {names.engine!r} already", "choose another name")
    folder = write_plugin(names, parent, form)
    echo(f"{folder}: the engine {names.engine!r}, its tests and a README")
    install, test = pip_line("-e", ".[test]"), python_line("-m", "pytest")
    echo(f"next: cd {shlex.quote(str(folder))} && {install} && {test}")

"""``corral convert``: a model for another engine."""

from __future__ import annotations

import tomllib
from typing import Any

import click

from corral.api.cli.model_names import names_in, suggesting
from corral.api.cli.output import echo, human_bytes, plain, print_json, print_record, print_table
from corral.api.cli.parameters import ModelText, NewName, ParameterAssignment, Registered, wrong_value_of
from corral.api.cli.progress import convert_progress
from corral.api.cli.session import Session
from corral.core.errors import InvalidOption

__all__ = ("convert",)


@click.command()
@click.argument("model", required=False, type=ModelText())
@click.option(
    "--to",
    type=Registered("converter"),
    metavar="CONVERTER",
    help="What to make of it: onnx, ctransformers, or what a plugin adds.",
)
@click.option(
    "--name", type=NewName(), help="The result's name; without it the model's, with the converter in its tag."
)
@click.option(
    "-p",
    "--parameter",
    "parameters",
    type=ParameterAssignment(),
    metavar="NAME=VALUE",
    multiple=True,
    help="A parameter: bits=8.",
)
@click.option("--list", "listing", is_flag=True, help="List the converters and their parameters instead.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object; with --list an array.")
@click.pass_obj
def convert(
    session: Session,
    model: str | None,
    to: str | None,
    name: str | None,
    parameters: tuple[tuple[str, str], ...],
    listing: bool,
    as_json: bool,
) -> None:
    """Make a model of MODEL that another engine takes, under a name of its own. MODEL stays as it is.

    An engine that needs a conversion has it made by itself when the model is first run: this is for choosing
    parameters, for doing it ahead, and for keeping the result without MODEL.
    """
    if listing:
        if model or to or name or parameters:
            raise click.UsageError("--list lists all converters: give nothing to convert with it")
        _list(session, as_json=as_json)
        return
    if model is None or to is None:
        raise click.UsageError("give a MODEL and what to make of it: --to CONVERTER (corral convert --list)")
    with (
        session.library() as corral,
        suggesting(model, lambda: names_in(corral)),
        wrong_value_of("-p", InvalidOption),
        convert_progress(model) as show,
    ):
        record = corral.convert(model, to, name=name, parameters=_values(parameters), on_progress=show)
    if as_json:
        print_record(record)
    else:
        echo(f"converted {model} to {record.name.short} ({human_bytes(record.size_bytes)})")


def _list(session: Session, *, as_json: bool) -> None:
    with session.library() as corral:
        found = corral.runtime().converters
    if as_json:
        print_json([plain(converter) for converter in found])
        return
    print_table(
        ("NAME", "AVAILABLE", "SUMMARY", "PARAMETERS"),
        [
            (
                converter.name,
                "yes" if converter.available else "no",
                converter.summary,
                ", ".join(f"{one.name}={one.default}" for one in converter.parameters) or "-",
            )
            for converter in found
        ],
    )
    for converter in found:
        if not converter.available:
            hint = f"; {converter.install_hint}" if converter.install_hint else ""
            echo(f"\n{converter.name}: {converter.reason}{hint}")


def _values(assignments: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """A value that is TOML is what it says, and any other is a text."""
    values: dict[str, Any] = {}
    for name, value in assignments:
        try:
            values[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            values[name] = value.strip()
    return values

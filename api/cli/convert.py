"""``corral convert``: converts a model for another engine."""

from __future__ import annotations

import click

from corral.api.cli.model_names import names_in, suggesting
from corral.api.cli.output import echo, human_bytes, plain, print_json, print_record, print_table
from corral.api.cli.parameters import ModelText, NewName, ParameterAssignment, Registered, wrong_value_of
from corral.api.cli.progress import convert_progress
from corral.api.cli.replacing import make_from, tell_replaced
from corral.api.cli.session import Session
from corral.core.conversion.results import converted_name
from corral.core.errors import InvalidOption
from corral.core.models.model import StoredModel
from corral.core.models.names import parse_name
from corral.core.toml_values import toml_value
from corral.plugins.assembly import CONVERTERS

__all__ = ("convert",)


@click.command()
@click.argument("model", required=False, type=ModelText())
@click.option(
    "--to",
    type=Registered(CONVERTERS),
    metavar="CONVERTER",
    help="The converter to use: onnx, ctransformers, or one that a plugin adds.",
)
@click.option(
    "--name",
    type=NewName(),
    help="The new model's name; by default MODEL's, with the converter in its tag. Another model of that name is "
    "replaced only if you give it.",
)
@click.option(
    "-p",
    "--parameter",
    "parameters",
    type=ParameterAssignment(),
    metavar="NAME=VALUE",
    multiple=True,
    help="A parameter of the converter: bits=8.",
)
@click.option("--list", "listing", is_flag=True, help="List the converters and their parameters, and convert nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object; with --list, an array.")
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
    """Convert MODEL for another engine, under a new name. MODEL itself is not changed.

    Corral converts a model automatically when it first runs on an engine that needs it. Use this command to choose
    parameters, to convert ahead of time, or to keep the result without MODEL.
    """
    if listing:
        if model or to or name or parameters:
            raise click.UsageError("--list cannot be combined with a model or with other options of a conversion")
        _list(session, as_json=as_json)
        return
    if model is None or to is None:
        raise click.UsageError("name a MODEL and a converter: --to CONVERTER (corral convert --list shows them)")
    with (
        session.library() as corral,
        suggesting(model, lambda: names_in(corral)),
        wrong_value_of("-p", InvalidOption),
        convert_progress(model) as show,
    ):
        source = parse_name(model)

        values = {key: toml_value(value) for key, value in parameters}

        def make() -> StoredModel:
            return corral.convert(model, to, name=name, parameters=values, on_progress=show)

        record, before = make_from(corral, source, name, converted_name(source, to), "adding --name", make)
    if as_json:
        print_record(record)
    else:
        echo(f"converted {model} to {record.name.short} ({human_bytes(record.size_bytes)})")
    tell_replaced(record.name.short, before, record.digest)


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

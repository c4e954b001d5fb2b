"""``corral quantize``: gives a model's weights another type."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from corral.api.cli.model_names import names_in, suggesting
from corral.api.cli.output import echo, human_bytes, print_record
from corral.api.cli.parameters import Checked, ModelText, NewName
from corral.api.cli.progress import transfer_progress
from corral.api.cli.replacing import make_from, tell_replaced
from corral.api.cli.session import Session
from corral.core.conversion.results import quantized_name
from corral.core.errors import InvalidRequest
from corral.core.models.model import StoredModel
from corral.core.models.names import parse_name
from corral.core.models.quantization_types import QuantizationType, quantization_type

__all__ = ("WeightsType", "quantize")


class WeightsType(Checked[str]):
    """A type of weights, in any case."""

    name = "type"

    def read(self, text: str, context: click.Context | None) -> str:
        found = quantization_type(text)
        if found is None:
            raise InvalidRequest(f"there is no type {text!r}", f"there are: {', '.join(QuantizationType)}")
        return found

    def words(self, session: Session, context: click.Context) -> Iterable[str]:
        return QuantizationType


@click.command()
@click.argument("model", type=ModelText())
@click.argument("type", type=WeightsType())
@click.argument("name", required=False, type=NewName())
@click.option("--requantize", is_flag=True, help="Also if the weights are quantized already, which loses quality.")
@click.option(
    "--imatrix",
    "importance_matrix",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="An importance matrix, made by llama-imatrix; most types with about three bits or less need one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def quantize(
    session: Session,
    model: str,
    type: str,
    name: str | None,
    requantize: bool,
    importance_matrix: Path | None,
    as_json: bool,
) -> None:
    """Give the weights of MODEL the TYPE, such as Q8_0 or Q4_K_M, in a new model. MODEL itself is not changed.

    NAME is by default that of MODEL, with the type in its tag; another model of that name is replaced only if you give
    NAME. All else is as in MODEL, whose files are shared.
    """
    with session.library() as corral, suggesting(model, lambda: names_in(corral)), transfer_progress() as show:
        source = parse_name(model)

        def make() -> StoredModel:
            return corral.quantize(
                model, type, name=name, requantize=requantize, importance_matrix=importance_matrix, on_progress=show
            )

        record, before = make_from(corral, source, name, quantized_name(source, type), "adding", make)
    if as_json:
        print_record(record)
    else:
        echo(f"quantized {model} to {record.name.short} ({human_bytes(record.size_bytes)})")
    tell_replaced(record.name.short, before, record.digest)

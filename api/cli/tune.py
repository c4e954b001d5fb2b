"""``corral tune``: finds the type in which this machine computes a model's weights best, and keeps it."""

from __future__ import annotations

import click

from corral.api.cli.compare import per_second
from corral.api.cli.model_names import names_in, suggesting
from corral.api.cli.output import echo, human_bytes, plain, print_json, print_table
from corral.api.cli.parameters import ModelText
from corral.api.cli.progress import convert_progress
from corral.api.cli.quantize import WeightsType
from corral.api.cli.session import Session
from corral.core.conversion.tuning import TuneReport, TuneRow
from corral.core.specs.comparisons import ModelFigures

__all__ = ("tune",)


@click.command()
@click.argument("model", type=ModelText())
@click.option(
    "--kl",
    type=click.FloatRange(min=0, min_open=True),
    default=0.01,
    show_default=True,
    help="How far predictions may be from the original's: KL divergence in nats.",
)
@click.option(
    "--type",
    "types",
    type=WeightsType(),
    multiple=True,
    metavar="TYPE",
    help="A type to try, instead of the usual ones; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Only measure: keep nothing.")
@click.option("--undo", is_flag=True, help="Load MODEL's own weights again, and delete what was kept.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def tune(
    session: Session, model: str, kl: float, types: tuple[str, ...], dry_run: bool, undo: bool, as_json: bool
) -> None:
    """Find the type of weights in which this machine computes MODEL best, and load that in place of MODEL's own.

    Candidates are made with llama.cpp's quantizer and compared with the original: speed of a prompt, of one answer and
    of eight, memory, and how far their predictions differ. The fastest that stays within --kl is kept; all names with
    the same weights use it from their next load on. MODEL itself is not changed.
    """
    if undo:
        if types or dry_run:
            raise click.UsageError("--undo cannot be combined with --type or --dry-run")
        with session.library() as corral, suggesting(model, lambda: names_in(corral)):
            found = corral.untune(model)
        if as_json:
            print_json({"model": model, "undone": found})
        else:
            echo(f"{model} is loaded as it is" + ("" if found else ", as before"))
        return
    with (
        session.library() as corral,
        suggesting(model, lambda: names_in(corral)),
        convert_progress(model, "tuning") as show,
    ):
        report = corral.tune(model, types=types, most_kl=kl, keep=not dry_run, on_progress=show)
    if as_json:
        print_json({"model": model} | plain(report))
        return
    first = [_cells(report.original_kind, report.original, "0", "1.00")] if report.original is not None else []
    print_table(("TYPE", "WEIGHTS", "PROMPT", "ONE ANSWER", "EIGHT", "KL", "SPEED"), [*first, *map(_row, report.rows)])
    for row in report.rows:
        if row.refused:
            echo(f"\n{row.kind} is not chosen: {row.refused}")
    echo(f"\n{_conclusion(model, report)}")


def _row(row: TuneRow) -> tuple[str, ...]:
    if row.comparison is None:
        return (row.kind, *("-" for _ in range(6)))
    gain = "-" if row.gain is None else f"{row.gain:.2f}"
    return _cells(row.kind, row.comparison.candidate, f"{row.comparison.kl_divergence:.5f}", gain)


def _cells(kind: str, figures: ModelFigures, kl: str, gain: str) -> tuple[str, ...]:
    speeds = map(per_second, (figures.prompt_per_s, figures.decode_per_s, figures.eight_per_s))
    return (kind, human_bytes(figures.weights_bytes), *speeds, kl, gain)


def _conclusion(model: str, report: TuneReport) -> str:
    if report.original is None and report.rows:
        return f"{model} stays as it is ({report.original_kind}): nothing could be measured"
    if report.recommended is None:
        return f"{model} is best as it is ({report.original_kind})"
    if not report.kept:
        return f"{report.recommended} suits this machine best; corral tune {model} keeps it"
    return f"{model} is loaded as {report.recommended} from now on; corral tune {model} --undo ends that"

"""``corral compare``: shows what one model loses and gains against another."""

from __future__ import annotations

from pathlib import Path

import click

from corral.api.cli.model_names import names_in, suggesting
from corral.api.cli.output import echo, human_bytes, plain, print_json, print_table
from corral.api.cli.parameters import ModelText
from corral.api.cli.progress import convert_progress
from corral.api.cli.session import Session
from corral.core.specs.comparisons import ModelFigures

__all__ = ("compare", "per_second")


@click.command()
@click.argument("reference", metavar="A", type=ModelText())
@click.argument("candidate", metavar="B", type=ModelText())
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The text to compare on, in UTF-8; by default one that comes with Corral.",
)
@click.option("--no-speed", is_flag=True, help="Compare only what they predict, which is faster.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def compare(session: Session, reference: str, candidate: str, text: Path | None, no_speed: bool, as_json: bool) -> None:
    """Compare the model B with A, from which it was made: how well both predict a text, how far their predictions
    differ, and how fast they are.

    KL divergence is the mean over the text of what B's predictions lose against A's, in nats: 0 is no difference, and
    below 0.01 hardly any text changes.
    """
    with (
        session.library() as corral,
        suggesting(reference, lambda: names_in(corral)),
        convert_progress(f"{reference} and {candidate}", "comparing") as show,
    ):
        found = corral.compare(reference, candidate, text=text, speed=not no_speed, on_progress=show)
    if as_json:
        print_json({"a": reference, "b": candidate} | plain(found))
        return
    print_table(
        ("", "A", "B"),
        [
            ("model", reference, candidate),
            ("perplexity", f"{found.reference.perplexity:.3f}", f"{found.candidate.perplexity:.3f}"),
            ("KL divergence", "", f"{found.kl_divergence:.5f}"),
            ("same top token", "", f"{found.same_top:.1%}"),
            ("weights", human_bytes(found.reference.weights_bytes), human_bytes(found.candidate.weights_bytes)),
            *(
                (label, *(per_second(getattr(one, field)) for one in (found.reference, found.candidate)))
                for label, field in _SPEEDS
                if found.reference.prompt_per_s is not None
            ),
            *([("exact texts", _yes(found.reference), _yes(found.candidate))] if not no_speed else []),
        ],
    )
    echo(f"\nover {found.positions} tokens")


_SPEEDS = (("prompt", "prompt_per_s"), ("one answer", "decode_per_s"), ("eight answers", "eight_per_s"))


def per_second(speed: float | None) -> str:
    """``412 tok/s``; a dash if it was not measured."""
    return "-" if speed is None else f"{speed:.0f} tok/s" if speed >= 10 else f"{speed:.1f} tok/s"


def _yes(figures: ModelFigures) -> str:
    return "yes" if figures.exact else "no"

"""``corral markov``: makes chains."""

from __future__ import annotations

from pathlib import Path

import click

from corral_markov.chain import Chain

__all__ = ("markov",)


@click.group()
def markov() -> None:
    """Make Markov chains."""


@markov.command()
@click.argument("text", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--order", default=2, show_default=True, help="The most words that decide the next one.")
def train(text: Path, out: Path, order: int) -> None:
    """Count in the file TEXT which words follow which, and write it to OUT, for corral import."""
    chain = Chain.train(text.read_text(encoding="utf-8", errors="replace"), order)
    chain.write(out)
    facts = chain.facts
    click.echo(f"{out}: {facts.transitions} ways on from {facts.contexts} contexts")

"""``corral tokenize``: prints the tokens of a text."""

from __future__ import annotations

import sys

import click

from corral.api.cli.model_names import names_in, suggesting
from corral.api.cli.output import echo, print_json, print_table
from corral.api.cli.parameters import ModelText
from corral.api.cli.session import Session
from corral.core.errors import InvalidRequest
from corral.core.requests.tokens import Tokens

__all__ = ("tokenize",)


@click.command()
@click.argument("model", type=ModelText())
@click.argument("text", required=False)
@click.option("--chat", is_flag=True, help="The text is a message: print what is sent to the model for it.")
@click.option("--count", is_flag=True, help="Print only the number of tokens.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def tokenize(session: Session, model: str, text: str | None, chat: bool, count: bool, as_json: bool) -> None:
    """Print the tokens of TEXT, or of what is piped in, as MODEL reads them: their ids and texts.

    The weights of MODEL are not loaded for it.
    """
    if count and as_json:
        raise click.UsageError("--count and --json exclude each other: give only one of them")
    given = _piped() if text is None else text
    with session.library() as corral, suggesting(model, lambda: names_in(corral)):
        if chat:
            found = corral.tokenize(model, [{"role": "user", "content": given}], with_pieces=not count)
        else:
            found = corral.tokenize(model, given, with_pieces=not count)
    if count:
        echo(str(len(found.ids)))
    elif as_json:
        told = {"model": model, "tokens": found.ids, "count": len(found.ids)}
        print_json(told | {"prompt": found.text, "pieces": _pieces(found)})
    else:
        pairs = zip(found.ids, found.pieces or (), strict=True)
        print_table(("ID", "TEXT"), [(str(token_id), _shown(piece)) for token_id, piece in pairs])


def _piped() -> str:
    if sys.stdin.isatty():
        raise click.UsageError("TEXT is missing: give it as an argument, or pipe it in")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("the piped input is not UTF-8 text") from error


def _pieces(found: Tokens) -> list[str | list[int]]:
    """As in ``/api/tokenize``."""
    texts = [(piece, _text(piece)) for piece in found.pieces or ()]
    return [list(piece) if text is None else text for piece, text in texts]


def _shown(piece: bytes) -> str:
    """In quotes, so that spaces can be seen."""
    text = _text(piece)
    return repr(piece if text is None else text)


def _text(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None

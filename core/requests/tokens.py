"""What is asked of a model's tokenizer, and what it answers."""

from __future__ import annotations

from corral.core.requests.calls import LoadingCall
from corral.core.values import Value

__all__ = ("DetokenizeCall", "TokenizeCall", "Tokens")


class TokenizeCall(LoadingCall, frozen=True, kw_only=True):
    """The ids of a text, which may have ids between its pieces.

    With `add_special`, those come with it that the model puts around every text, such as BOS, unless they are there
    already. With `parse_special`, control tokens in the text count as such.
    """

    text: str | tuple[str | int, ...]
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeCall(LoadingCall, frozen=True, kw_only=True):
    """The text of token ids."""

    ids: tuple[int, ...]
    with_pieces: bool = False


class Tokens(Value, frozen=True, kw_only=True):
    """Token ids and their text; in that of ids that were given, bytes that are not UTF-8 are U+FFFD. `pieces` are the
    bytes of each id, None if nobody asked for them.
    """

    ids: tuple[int, ...]
    text: str
    pieces: tuple[bytes, ...] | None = None

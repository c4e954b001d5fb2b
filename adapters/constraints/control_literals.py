"""Literals of a Lark grammar that are control tokens of the model: as text, they could never be generated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from corral.adapters.constraints.lark_tokens import lark_tokens
from corral.core.ports.tokens import Vocabulary
from corral.core.requests.call_grammars import literal

__all__ = ("with_control_tokens",)

_LAZY = re.compile(r"\[lazy\]: (\w+ |)$")


def with_control_tokens(grammar: str, texts: Iterable[str], vocabulary: Vocabulary) -> str:
    """The grammar, in which a literal that is one of `texts` stands for the control token with this text, if any.

    A rule that is a text up to such a literal must not be lazy: a control token ends a text by itself.
    """
    spelled = {vocabulary.pieces[token_id]: token_id for token_id in vocabulary.control}
    found = {literal(text): spelled[text.encode()] for text in texts if text.encode() in spelled}
    if not found:
        return grammar
    parts: list[str] = []
    for kind, part in lark_tokens(grammar):
        if kind == "literal" and part in found:
            if parts:
                parts[-1] = _LAZY.sub(r": \1", parts[-1])
            parts.append(f"<[{found[part]}]>")
        else:
            parts.append(f"%json {json.dumps(part)}" if kind == "schema" else part)
    return "".join(parts)

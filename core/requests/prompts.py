"""Prompts: text to tokenize and token ids, in parts."""

from __future__ import annotations

from collections.abc import Iterable

from corral.core.values import Value

__all__ = ("Prompt", "TextPart", "TokensPart", "joined", "prompt_text")


class TextPart(Value, frozen=True, kw_only=True):
    """Text to tokenize. `parse_special`: control tokens spelt in it count as such (a template's own text)."""

    text: str
    parse_special: bool = False


class TokensPart(Value, frozen=True, kw_only=True):
    """Token ids, taken as they are."""

    ids: tuple[int, ...]


Prompt = tuple[TextPart | TokensPart, ...]
"""Parts are tokenized one by one and joined. The engine adds the model's BOS once, where the model wants one."""


def prompt_text(prompt: Prompt) -> str:
    """The text of a prompt, for people to read."""
    return "".join(part.text for part in prompt if isinstance(part, TextPart))


def joined(parts: Iterable[TextPart | TokensPart]) -> Prompt:
    """The same prompt without empty texts, and with neighbouring texts of one kind joined."""
    result: list[TextPart | TokensPart] = []
    texts: list[str] = []
    special = False

    def flush() -> None:
        if texts:
            result.append(TextPart(text="".join(texts), parse_special=special))
            texts.clear()

    for part in parts:
        if not isinstance(part, TextPart):
            flush()
            result.append(part)
        elif part.text:
            if part.parse_special != special:
                flush()
                special = part.parse_special
            texts.append(part.text)
    flush()
    return tuple(result)

"""Prompts: text to tokenize, token ids, and media, in parts."""

from __future__ import annotations

from collections.abc import Iterable

from corral.core.values import Value

__all__ = ("MediaPart", "Prompt", "TextPart", "TokensPart", "has_media", "joined", "prompt_text")


class TextPart(Value, frozen=True, kw_only=True):
    """Text to tokenize. With `parse_special`, control tokens in it count as such, as in a template's own text."""

    text: str
    parse_special: bool = False


class TokensPart(Value, frozen=True, kw_only=True):
    """Token ids, used as they are."""

    ids: tuple[int, ...]


class MediaPart(Value, frozen=True, kw_only=True):
    """The contents of an image or sound file, at its place in the text. For engines with the feature ``images``
    or ``audio``.
    """

    data: bytes


Prompt = tuple[TextPart | TokensPart | MediaPart, ...]
"""Parts are tokenized one by one and joined. The engine adds the model's BOS once, if the model wants one."""


def has_media(prompt: Prompt) -> bool:
    """Whether the prompt has images or sound."""
    return any(isinstance(part, MediaPart) for part in prompt)


def prompt_text(prompt: Prompt) -> str:
    """The text of a prompt, for people to read. Parts that are not text are left out."""
    return "".join([part.text for part in prompt if isinstance(part, TextPart)])


def joined(parts: Iterable[TextPart | TokensPart | MediaPart]) -> Prompt:
    """The same prompt without empty texts, and with neighbouring texts of one kind joined."""
    result: list[TextPart | TokensPart | MediaPart] = []
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

"""Refuses texts whose size alone shows that they are too long for a model; engines check exactly (`admission.py`)."""

from __future__ import annotations

from corral.core.errors import PromptTooLong
from corral.core.ports.running import ModelInfo
from corral.core.requests.prompts import Prompt, TextPart
from corral.core.requests.requests import ContextPolicy

__all__ = ("most_tokens_of_prompt", "require_room", "require_room_for")


def most_tokens_of_prompt(info: ModelInfo, context: ContextPolicy) -> int | None:
    """The most tokens of a prompt that leaves room for an answer; None if that is not known."""
    most = info.most_tokens(context.num_ctx)
    return None if most is None else max(0, most - 1)


def require_room(info: ModelInfo, characters: int, most: int | None) -> None:
    """Raise `PromptTooLong` if the size of a text alone proves that it has more than `most` tokens."""
    if most is not None and info.longest_token_bytes is not None and characters > most * info.longest_token_bytes:
        raise PromptTooLong(
            f"a text of {characters} characters has more than the {most} tokens that fit",
            "shorten it, or raise num_ctx",
        )


def require_room_for(info: ModelInfo, prompt: Prompt, context: ContextPolicy) -> None:
    """As `require_room`, for a prompt that must leave room for an answer."""
    characters = sum([len(part.text) for part in prompt if isinstance(part, TextPart)])
    require_room(info, characters, most_tokens_of_prompt(info, context))

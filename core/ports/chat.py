"""The text ports: chat templates in front of an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.messages import Message, Tool
from corral.core.requests.prompts import Prompt

__all__ = ("ChatTemplate", "ChatTemplateFactory")


class ChatTemplate(Protocol):
    """One model's way to spell a conversation. Safe for many threads; rendering does no I/O."""

    @property
    def source(self) -> str:
        """The template's own text, as `show` prints it."""
        ...

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        variables: Mapping[str, Any] | None = None,
        control: ControlTokens = LOOKALIKES,
    ) -> Prompt:
        """The prompt up to where the assistant begins to speak; a trailing assistant message is continued.

        What is spelled like one of the `control` tokens in any text of messages and tools is a part of its own with
        `parse_special` off. A long rendering ends soon once `corral.core.generation.rendering.abandoned` says so.

        Raises `InvalidRequest` with the template's own complaint, or where it outgrows its limits.
        """
        ...


class ChatTemplateFactory(Protocol):
    """Picks and compiles a model's template."""

    def __call__(self, record: StoredModel, metadata: ModelMetadata | None) -> ChatTemplate | None:
        """None where this has nothing for the model. Raises `InvalidModelFile` for one that does not compile."""
        ...

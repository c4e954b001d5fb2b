"""What the commands of an interactive chat change: the conversation, its model, and how answers are shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from corral.api.cli.backends import Backend, RunOptions
from corral.api.cli.history import History

__all__ = ("ChatState",)


class ChatState:
    """`messages` are those of the conversation, without the `system` text and the model's own opening messages."""

    def __init__(
        self,
        backend: Backend,
        run_options: RunOptions,
        *,
        history: History,
        verbose: bool,
        wrap: bool,
        hide_thinking: bool,
    ) -> None:
        self.backend = backend
        self.run_options = run_options
        self.history = history
        self.verbose = verbose
        self.wrap = wrap
        self.hide_thinking = hide_thinking
        self.system = run_options.system
        self.messages: list[dict[str, Any]] = []
        self.said_truncated = False

    def change(self, **fields: Any) -> None:
        """Sets fields of `run_options`."""
        self.run_options = msgspec.structs.replace(self.run_options, **fields)

    def sent_messages(self) -> list[dict[str, Any]]:
        """The conversation after the system text."""
        opening = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*opening, *self.messages]

    def forget(self) -> None:
        """Begins a new conversation."""
        self.messages.clear()
        self.said_truncated = False

    def option_lines(self) -> Iterator[str]:
        """The options that are set, one per line."""
        for name, option in self.run_options.options.items():
            yield f"{name:<30} {', '.join(option) if isinstance(option, list) else option}"

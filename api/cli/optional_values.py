"""Options that can be given without a value, as in ``--think`` and ``--think=low``."""

from __future__ import annotations

from typing import Any

import click

from corral.api.cli.parameters import Checked
from corral.core.errors import InvalidOption
from corral.core.requests.think_values import check_think

__all__ = ("OptionalValues", "Switch", "Think")

_SWITCH = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}


class OptionalValues(click.Command):
    """A command whose options of these types mean ``=true`` if they have no value: they never take the next word."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        bare = {
            option
            for parameter in self.params
            if isinstance(parameter.type, Think | Switch)
            for option in parameter.opts
        }
        end = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [f"{word}=true" if word in bare else word for word in args[:end]] + args[end:])


class Switch(Checked[bool]):
    """``true`` or ``false``."""

    name = "true|false"

    def read(self, text: str, context: click.Context | None) -> bool:
        if text.lower() not in _SWITCH:
            raise InvalidOption(f"{text!r} is neither true nor false")
        return _SWITCH[text.lower()]

    def words(self, session: Any, context: click.Context) -> tuple[str, ...]:
        return ("true", "false")


class Think(Checked[bool | str]):
    """``true``, ``false``, or how hard the model thinks."""

    name = "true|false|low|medium|high|max"

    def read(self, text: str, context: click.Context | None) -> bool | str:
        return _SWITCH[text.lower()] if text.lower() in _SWITCH else check_think(text) or False

    def words(self, session: Any, context: click.Context) -> tuple[str, ...]:
        return ("true", "false", "low", "medium", "high", "max")

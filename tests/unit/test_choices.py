"""Texts of enumerations are read in any case, and values that people type on a command line as they mean them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
import pytest

from corral.core.choices import choices_of, in_listed_case
from corral.core.toml_values import toml_value


class Colour(StrEnum):
    RED = "red"
    BLUE = "Blue"


class Options(msgspec.Struct, frozen=True):
    cache: Literal["f16", "q8_0"] = "f16"
    weights: Annotated[Literal["off", "Q8_0"] | None, msgspec.Meta(description="")] = None
    colour: Colour = Colour.RED
    twins: Literal["a", "A"] = "a"
    bits: Literal[4, 8] = 4
    name: str | None = None


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("cache", ("f16", "q8_0")),
        ("weights", ("off", "Q8_0")),
        ("colour", ("red", "Blue")),
        ("bits", ()),
        ("name", ()),
        ("none", ()),
    ],
)
def test_the_choices_of_a_field(name: str, choices: tuple[str, ...]) -> None:
    """They are the texts of a `Literal` or an enumeration, which may be optional or annotated."""
    assert choices_of(Options, name) == choices


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("cache", "Q8_0", "q8_0"),
        ("weights", "q8_0", "Q8_0"),
        ("weights", "OFF", "off"),
        ("colour", "blue", "Blue"),
        ("twins", "A", "A"),
        ("cache", "q9", "q9"),
        ("cache", 8, 8),
        ("name", "Q8_0", "Q8_0"),
        ("none", "X", "X"),
    ],
)
def test_a_choice_may_be_in_any_case(name: str, value: Any, read: Any) -> None:
    """A text that is a choice in another case becomes that choice; everything else stays as it is."""
    assert in_listed_case({name: value}, Options) == {name: read}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("True", True),
        (" FALSE ", False),
        ("'True'", "True"),
        ("8", 8),
        ("['a']", ["a"]),
        (" plain text ", "plain text"),
        ("yes", "yes"),
        ("", ""),
    ],
)
def test_values_on_a_command_line(text: str, value: object) -> None:
    """They are TOML, truth values in any case, or plain text."""
    assert toml_value(text) == value
    assert type(toml_value(text)) is type(value)

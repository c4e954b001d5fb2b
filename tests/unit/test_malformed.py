"""msgspec's errors are parsed in one place, which these tests pin to the texts of the installed msgspec."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from corral.core.malformed import Mistyped, mistyped


class Inner(msgspec.Struct, frozen=True):
    numbers: tuple[int, ...] = ()
    share: Annotated[float, msgspec.Meta(le=1)] = 0.0


class Outer(msgspec.Struct, frozen=True):
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("value", "message", "path", "given"),
    [
        ({"flag": "yes"}, "Expected `bool`, got `str`", ".flag", "str"),
        ({"inner": {"numbers": [1, "two"]}}, "Expected `int`, got `str`", ".inner.numbers[1]", "str"),
        ({"inner": []}, "Expected `object`, got `array`", ".inner", "array"),
        ({"inner": {"share": 2.5}}, "Expected `float` <= 1.0", ".inner.share", None),
        ([], "Expected `object`, got `array`", "", "array"),
    ],
)
def test_what_msgspec_says(value: Any, message: str, path: str, given: str | None) -> None:
    """The message, the path and the type that was given, as msgspec words them."""
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert(value, Outer)
    assert mistyped(raised.value) == Mistyped(message=message, path=path, given=given, quoted=None)


@pytest.mark.parametrize("text", ["c", "", "it's", "two\nlines - at `$.flag`", "a \"b\" 'c'"])
def test_the_text_that_msgspec_repeats(text: str) -> None:
    """A text that is none of those allowed is in the message as Python writes it, and named."""
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert({"kind": text}, Outer)
    found = mistyped(raised.value)
    assert (found.path, found.quoted) == (".kind", repr(text))
    assert found.message.endswith(repr(text))

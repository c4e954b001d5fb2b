"""Python functions as tools: what a model is told about them, and what they get."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypedDict

import pydantic
import pytest

from corral.api.library.docstrings import described
from corral.api.library.functions import FunctionTool
from corral.api.library.tools import to_tools
from corral.core.errors import InvalidRequest
from corral.core.requests.messages import Tool


class Unit(enum.Enum):
    CELSIUS = "c"
    KELVIN = "k"


@dataclasses.dataclass
class Place:
    city: str
    zip: int | None = None


class Span(TypedDict):
    days: int


class Item(pydantic.BaseModel):
    name: str
    parts: list[Part] = []


class Part(pydantic.BaseModel):
    count: int


def weather(city: str, unit: Unit, days: int = 3, near: Place | None = None) -> str:
    """Tells the weather.

    For a week at most.

    Args:
        city: The city, with
            its country.
        unit (Unit): The unit: a letter.
        days: How many days.

    Returns:
        A text.
    """
    return f"{city} {unit} {days} {near}"


def test_a_function_describes_itself() -> None:
    """By its name, the beginning of its docstring, its annotations, and the section of its arguments."""
    made = FunctionTool(weather)
    assert (made.tool.name, made.tool.description) == ("weather", "Tells the weather.\n\nFor a week at most.")
    assert made.tool.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "The city, with its country."},
            "unit": {"$ref": "#/$defs/Unit", "description": "The unit: a letter."},
            "days": {"type": "integer", "description": "How many days."},
            "near": {"$ref": "#/$defs/Place"},
        },
        "required": ["city", "unit"],
        "$defs": {
            "Unit": {"title": "Unit", "enum": ["c", "k"]},
            "Place": {
                "title": "Place",
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "zip": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
                },
                "required": ["city"],
            },
        },
    }


def test_a_function_gets_what_it_expects() -> None:
    """Enums and dataclasses are made; what the model leaves out is left to the function."""
    arguments = FunctionTool(weather).arguments({"city": "Bonn", "unit": "k", "near": {"city": "Köln"}})
    assert arguments == {"city": "Bonn", "unit": Unit.KELVIN, "near": Place("Köln")}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"city": 7, "unit": "c"}, "Expected `str`, got `int`"),
        ({"unit": "c"}, "missing required field `city`"),
        ({"city": "Bonn", "unit": "x"}, "Invalid enum value 'x'"),
        ({"city": "Bonn", "unit": "c", "more": 1}, "unknown field `more`"),
    ],
)
def test_arguments_that_do_not_fit(given: Mapping[str, Any], said: str) -> None:
    """The error is for the model to read."""
    with pytest.raises(ValueError, match=said):
        FunctionTool(weather).arguments(given)


def _of(hint: Any) -> Callable[..., Any]:
    def tool(value: Any) -> None: ...

    tool.__annotations__ = {"value": hint}
    return tool


@pytest.mark.parametrize(
    ("hint", "schema", "given", "expected"),
    [
        (str, {"type": "string"}, "x", "x"),
        (float, {"type": "number"}, 1, 1.0),
        (bool, {"type": "boolean"}, True, True),
        (list[int], {"type": "array", "items": {"type": "integer"}}, [1], [1]),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}, {"a": 1}, {"a": 1}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}, "a", "a"),
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}, "x", "x"),
        (int | None, {"type": "integer"}, None, None),
        (Annotated[str, "a note"], {"type": "string", "description": "a note"}, "x", "x"),
        (datetime.date, {"type": "string", "format": "date"}, "2026-01-02", datetime.date(2026, 1, 2)),
        (Span, {"$ref": "#/$defs/Span"}, {"days": 1}, {"days": 1}),
        (Any, {}, [1, "x"], [1, "x"]),
    ],
)
def test_types(hint: Any, schema: Mapping[str, Any], given: Any, expected: Any) -> None:
    """Those that JSON has, and what stands for them in Python."""
    made = FunctionTool(_of(hint))
    assert made.tool.parameters["properties"]["value"] == schema
    assert made.arguments({"value": given}) == {"value": expected}


def test_pydantic_models() -> None:
    """Their definitions join the others, so that references lead somewhere."""
    made = FunctionTool(_of(list[Item]))
    assert set(made.tool.parameters["$defs"]) == {"Part"}
    [item] = made.arguments({"value": [{"name": "x", "parts": [{"count": "3"}]}]})["value"]
    assert item == Item(name="x", parts=[Part(count=3)])
    with pytest.raises(ValueError, match="count"):
        made.arguments({"value": [{"name": "x", "parts": [{"count": "many"}]}]})


def test_methods_can_be_called() -> None:
    """Their `self` is no parameter."""

    class Clock:
        def now(self, zone: str = "UTC") -> str:
            return zone

    assert FunctionTool(Clock().now).tool.parameters["properties"] == {"zone": {"type": "string"}}


def _variadic(*values: int) -> None: ...
def _open(**values: int) -> None: ...
def _placed(value: int, /) -> None: ...
def _bare(value) -> None: ...  # type: ignore[no-untyped-def]
def _lost(value: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_variadic, "_variadic takes any number of positional arguments"),
        (_open, "_open takes any keyword arguments"),
        (_placed, "_placed has a positional-only parameter"),
        (_bare, "the parameter 'value' of _bare has no type"),
        (_lost, "annotations of _lost cannot be read: name 'Nowhere' is not defined"),
        (_of(complex), "the parameters of tool cannot be described"),
        (_of(Clock := type("Clock", (), {})), "the parameters of tool cannot be described"),
        (lambda value: value, "has no name"),
        (functools.partial(weather, "Bonn"), "has no name"),
    ],
)
def test_a_function_that_cannot_be_described(function: Callable[..., Any], said: str) -> None:
    """The error names the function and the parameter."""
    with pytest.raises(InvalidRequest, match=said):
        FunctionTool(function)


def test_docstrings() -> None:
    """Without sections all of it is the description; other sections are not part of it."""
    assert described(None) == ("", {})
    assert described("Does it.\n\nWell.") == ("Does it.\n\nWell.", {})
    text = "Does it.\n\n  Args:\n    a: One:\n      more\n    *b (int): Two\n\n  Raises:\n    c: no\n"
    assert described(text) == ("Does it.", {"a": "One: more", "b": "Two"})


def test_tools_may_be_written_in_several_ways() -> None:
    """Functions, dicts in the form of OpenAI's API or without its frame, `Tool`s, and those of Ollama's client."""
    import ollama

    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    tool = Tool(name="f", description="d", parameters={"type": "object"})
    for one in (function, {"type": "function", "function": function}, tool):
        assert to_tools([one]) == ((tool,), {})
    theirs = ollama.Tool(function=ollama.Tool.Function(name="f", description="d", parameters=None))
    assert to_tools([theirs])[0][0].name == "f"
    tools, functions = to_tools([weather, function])
    assert ([one.name for one in tools], list(functions)) == (["weather", "f"], ["weather"])
    assert to_tools(None) == ((), {})


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        (weather, "tools: expected a list, got function"),
        ("f", "tools: expected a list, got str"),
        ([3], "tools: invalid tool int 3"),
        ([{"type": "function"}], "invalid tool dict .* missing required field `name`"),
        ([{"name": 1}], r"invalid tool dict .* at `\$.name`"),
        ([weather, {"name": "weather"}], "two tools with the name 'weather'"),
    ],
)
def test_what_is_no_tool(tools: Any, said: str) -> None:
    """The error shows it."""
    with pytest.raises(InvalidRequest, match=said):
        to_tools(tools)

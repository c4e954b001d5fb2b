"""Tools as Go templates see them: Ollama's types, which print as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from corral.adapters.templates.go.values import GoMap, GoPointer, GoSequence, GoSlice, GoStruct
from corral.core.requests.messages import Tool
from corral.core.requests.typed_text import unmarked

__all__ = ("AsText", "go_value", "tool_list")

AsText = Callable[[Any], str]
"""Writes a value as JSON."""

_PROPERTY_NAMES = {
    "AnyOf": "anyOf", "Type": "type", "Items": "items", "Description": "description", "Enum": "enum",
    "Properties": "properties", "Required": "required",
}  # fmt: skip
_PARAMETER_NAMES = {
    "Type": "type", "Defs": "$defs", "Items": "items", "Required": "required", "Properties": "properties",
}  # fmt: skip
_TYPE_SCRIPT = {
    "string": "string", "number": "number", "integer": "number", "boolean": "boolean", "array": "any[]",
    "object": "Record<string, any>", "null": "null",
}  # fmt: skip
_DEEPEST = 100
_SEQUENCE = "iter.Seq2[string,github.com/ollama/ollama/api.ToolProperty]"
_NO_PROPERTIES: Mapping[str, Callable[[Any], Any]] = {
    "All": lambda _: GoSequence(_SEQUENCE, ()),
    "Len": lambda _: 0,
    "ToMap": lambda _: _properties(None, "map[string]api.ToolProperty", None),
}


class _PropertyType(GoSlice):
    """``api.PropertyType``: one or several types; a single one is printed alone."""

    def shown_in_json(self) -> Any:
        return self.items[0] if len(self.items) == 1 else GoSlice("[]string", self.items)


class _OrderedProperties(GoStruct):
    """``api.ToolPropertiesMap``, whose properties keep their order in JSON."""

    def shown_in_json(self) -> Any:
        return self.fields["om"]


def go_value(value: Any) -> Any:
    """A value decoded from JSON as Go decodes it into ``any``: every number is a float64."""
    match value:
        case None | bool() | str():
            return value
        case int() | float():
            try:
                return float(value)
            except OverflowError:
                return float("inf")
        case Mapping():
            return GoMap("map[string]interface {}", *_entries(value, go_value))
        case _:
            return GoSlice("[]interface {}", list(map(go_value, value)), boxed=True)


def _entries(value: Mapping[str, Any], convert: Callable[[Any], Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The entries by their keys as they were typed, and the keys that contain marks."""
    entries: dict[str, Any] = {}
    labels: dict[str, str] = {}
    for label, item in value.items():
        key = unmarked(label)
        entries[key] = convert(item)
        if key != label:
            labels[key] = label
    return entries, labels


def tool_list(tools: Sequence[Tool], as_text: AsText) -> GoSlice:
    """``.Tools``; nil if there are none."""
    return GoSlice("template.templateTools", [_tool(tool, as_text) for tool in tools] or None, as_text=as_text)


def _tool(tool: Tool, as_text: AsText) -> GoStruct:
    parameters = tool.parameters
    properties = parameters.get("properties")
    described = GoStruct(
        "template.templateToolFunctionParameters",
        {
            "Type": _text(parameters.get("type")),
            "Defs": go_value(parameters.get("$defs")),
            "Items": go_value(parameters.get("items")),
            "Required": _texts(parameters.get("required")),
            "Properties": _properties(properties, "template.templateProperties", as_text),
        },
        boxed=frozenset({"Defs", "Items"}),
        json_names=_PARAMETER_NAMES,
        omitted=frozenset({"Defs", "Items", "Required"}),
    )
    function = GoStruct(
        "template.templateToolFunction",
        {"Name": tool.name, "Description": tool.description, "Parameters": described},
        json_names={"Name": "name", "Description": "description", "Parameters": "parameters"},
    )
    return GoStruct(
        "template.templateTool",
        {"Type": "function", "Items": None, "Function": function},
        boxed=frozenset({"Items"}),
        json_names={"Type": "type", "Items": "items", "Function": "function"},
        omitted=frozenset({"Items"}),
        as_text=as_text,
    )


def _properties(value: Any, type_: str, as_text: AsText | None, depth: int = 0, *, ordered: bool = False) -> GoMap:
    found = value if isinstance(value, Mapping) else {}
    entries, labels = _entries(found, lambda one: _property(one, depth + 1))
    given = entries if isinstance(value, Mapping) else None
    return GoMap(type_, given, labels, zero=lambda: _property({}, 0), as_text=as_text, keeps_order=ordered)


def _property(value: Any, depth: int) -> GoStruct:
    """``api.ToolProperty``. Parts of an unexpected type are left out, since Ollama refuses them."""
    found: Mapping[str, Any] = value if isinstance(value, Mapping) and depth < _DEEPEST else {}
    types = found.get("type")
    any_of, enum, properties = found.get("anyOf"), found.get("enum"), found.get("properties")
    return GoStruct(
        "api.ToolProperty",
        {
            "AnyOf": GoSlice(
                "[]api.ToolProperty",
                [_property(one, depth + 1) for one in any_of] if isinstance(any_of, list | tuple) else None,
            ),
            "Type": _PropertyType(
                "api.PropertyType", [types] if isinstance(types, str) else _texts(types).items, as_text=_type_text
            ),
            "Items": go_value(found.get("items")),
            "Description": _text(found.get("description")),
            "Enum": go_value(enum) if isinstance(enum, list | tuple) else GoSlice("[]interface {}", None, boxed=True),
            "Properties": GoPointer("*api.ToolPropertiesMap", _ordered(properties, depth), methods=_NO_PROPERTIES),
            "Required": _texts(found.get("required")),
        },
        boxed=frozenset({"Items"}),
        json_names=_PROPERTY_NAMES,
        omitted=frozenset(_PROPERTY_NAMES),
        methods={"ToTypeScriptType": _type_script},
    )


def _ordered(value: Any, depth: int) -> GoStruct | None:
    if not isinstance(value, Mapping):
        return None
    properties = _properties(value, "map[string]api.ToolProperty", None, depth, ordered=True)
    return _OrderedProperties(
        "api.ToolPropertiesMap",
        {"om": properties},
        methods={
            "All": lambda _: GoSequence(
                _SEQUENCE, [(properties.labels.get(key, key), one) for key, one in properties.entries.items()]
            ),
            "Len": lambda _: len(properties.entries),
            "ToMap": lambda _: GoMap(properties.type, properties.entries, properties.labels, zero=properties.zero),
        },
    )


def _type_text(value: GoSlice) -> str:
    return value.items[0] if len(value.items) == 1 else f"[{' '.join(value.items)}]" if value.items else ""


def _type_script(value: GoStruct) -> str:
    any_of: Sequence[GoStruct] = value.fields["AnyOf"].items
    if any_of:
        return " | ".join(map(_type_script, any_of))
    types: Sequence[str] = value.fields["Type"].items
    return " | ".join([_TYPE_SCRIPT.get(one, "any") for one in types]) or "any"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> GoSlice:
    texts = [one for one in value if isinstance(one, str)] if isinstance(value, list | tuple) else None
    return GoSlice("[]string", texts)

"""Python functions as tools: their JSON Schema from signature and docstring, and calls with decoded arguments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from corral.api.library.docstrings import described
from corral.core.errors import InvalidRequest
from corral.core.requests.messages import Tool

__all__ = ("FunctionTool",)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KINDS = {
    inspect.Parameter.VAR_POSITIONAL: "takes any number of positional arguments",
    inspect.Parameter.VAR_KEYWORD: "takes any keyword arguments",
    inspect.Parameter.POSITIONAL_ONLY: "has a positional-only parameter",
}


class FunctionTool:
    """A function that a model may call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """Raises `InvalidRequest` that names the parameter for a function that cannot be described."""
        self.function = function
        name = getattr(function, "__name__", "")
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"tools: {function!r} has no name", "define the function with def, or pass a dict")
        hints = _hints(function, name)
        about, documented = described(function.__doc__)
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        descriptions: dict[str, str] = {}
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in _KINDS:
                raise InvalidRequest(f"tools: {name} {_KINDS[parameter.kind]}", "give it named parameters")
            if parameter.name not in hints:
                raise InvalidRequest(
                    f"tools: the parameter {parameter.name!r} of {name} has no type",
                    f"annotate it: {parameter.name}: str",
                )
            hint = hints[parameter.name]
            descriptions[parameter.name] = _noted(hint) or documented.get(parameter.name, "")
            optional = parameter.default is not inspect.Parameter.empty
            fields.append((parameter.name, hint, msgspec.UNSET) if optional else (parameter.name, hint))
        try:
            self._arguments = msgspec.defstruct(f"{name} ", fields, kw_only=True, forbid_unknown_fields=True)
            parameters = _schema(self._arguments, descriptions)
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidRequest(
                f"tools: the parameters of {name} cannot be described: {str(error).splitlines()[0]}",
                "use types that JSON has, dataclasses, TypedDicts, or pydantic models; or pass a dict",
            ) from error
        self.tool = Tool(name=name, description=about, parameters=parameters)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call as the function expects them. Raises `ValueError` that says what is wrong."""
        found = msgspec.convert(given, self._arguments, dec_hook=_decoded)
        values = {name: getattr(found, name) for name in self._arguments.__struct_fields__}
        return {name: value for name, value in values.items() if value is not msgspec.UNSET}


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as error:  # annotations are code of the caller's
        raise InvalidRequest(f"tools: the annotations of {name} cannot be read: {error}") from error


def _noted(hint: Any) -> str:
    """The text in ``Annotated[str, "text"]``, empty without one."""
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((note for note in notes if isinstance(note, str)), "")


def _schema(arguments: type[msgspec.Struct], descriptions: Mapping[str, str]) -> dict[str, Any]:
    definitions: dict[str, Any] = {}

    def foreign(type: Any) -> dict[str, Any]:
        """The schema of a pydantic model, whose own definitions join the others."""
        if not hasattr(type, "model_json_schema"):
            raise TypeError(f"{type!r} has no JSON Schema")
        schema: dict[str, Any] = type.model_json_schema()
        definitions.update(schema.pop("$defs", {}))
        return schema

    [reference], components = msgspec.json.schema_components(
        [arguments], schema_hook=foreign, ref_template="#/$defs/{name}"
    )
    own = components.pop(reference["$ref"].rpartition("/")[2])
    properties = {key: _property(part, descriptions[key]) for key, part in own["properties"].items()}
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": own["required"]}
    definitions.update(components)
    return schema | ({"$defs": definitions} if definitions else {})


def _property(schema: dict[str, Any], description: str) -> dict[str, Any]:
    """Without the null of an optional parameter, which the model can leave out instead."""
    choices = [part for part in schema.get("anyOf", ()) if part != {"type": "null"}]
    if len(choices) == 1 and len(choices) < len(schema["anyOf"]):
        schema = {key: value for key, value in schema.items() if key != "anyOf"} | choices[0]
    if "enum" in schema and all(isinstance(value, str) for value in schema["enum"]):
        schema = {"type": "string"} | schema  # some templates show the type of each parameter
    return schema | ({"description": description} if description else {})


def _decoded(type: Any, value: Any) -> Any:
    return type.model_validate(value)

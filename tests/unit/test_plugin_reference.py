"""docs/plugin-reference.md has every name of `corral.plugins`, with its signature and docstring.

``CORRAL_WRITE_DOCS=1 pytest tests/unit/test_plugin_reference.py`` writes it anew.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from corral import plugins
from corral.core.errors import CorralError

PAGE = Path(__file__).parents[2] / "docs" / "plugin-reference.md"
HEAD = """# Reference of `corral.plugins`

Everything that the author of a plugin imports from `corral.plugins`, with what it promises. [Plugins](plugins.md)
explains how it fits together. A test writes this page from the docstrings.
"""


def homes() -> dict[str, str]:
    """The modules that `corral.plugins` imports from, by the names that it imports; ``*`` for all of a module."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(inspect.getsource(plugins))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("corral."):
            for alias in node.names:
                names = exported(str(node.module)) if alias.name == "*" else [alias.name]
                found.update(dict.fromkeys(names, str(node.module)))
    return found


def tree(module: str) -> ast.Module:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def exported(module: str) -> list[str]:
    for node in tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def alias(name: str, module: str) -> tuple[str, str]:
    """The source of an assignment, and the text below it."""
    body = tree(module).body
    for place, node in enumerate(body):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            following = body[place + 1] if place + 1 < len(body) else None
            text = following.value if isinstance(following, ast.Expr) else None
            return ast.unparse(node), str(text.value) if isinstance(text, ast.Constant) else ""
    raise AssertionError(f"{module} assigns no {name}")


def prose(text: str | None) -> str:
    """A docstring as Markdown; indented parts become blocks."""
    text = re.sub(r"`corral\.core\.[\w.]+\.(\w+)`", r"`\1`", inspect.cleandoc(text or "").replace("``", "`"))
    lines = text.splitlines()
    shown: list[str] = []
    inside = False
    for line in lines:
        block = line.startswith("    ")
        if block != inside and (block or line):
            shown.append("```text" if block else "```")
            inside = block
        shown.append(line[4:] if block else line)
    return "\n".join(shown + ["```"] * inside).replace("::\n", ":\n").strip()


def annotated(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def signature(function: Any) -> str:
    """Parameters and result, without `self`."""
    found = inspect.signature(function)
    parts, starred = [], False
    for parameter in found.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        starred = starred or parameter.kind is parameter.VAR_POSITIONAL
        sign = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        text = f"{sign}{parameter.name}"
        if parameter.annotation is not parameter.empty:
            text += f": {annotated(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {default(parameter.default)}"
        parts.append(text)
    if inspect.isgeneratorfunction(inspect.unwrap(function)) and hasattr(function, "__wrapped__"):
        found = found.replace(return_annotation=found.return_annotation.replace("Iterator", "AbstractContextManager"))
    result = "" if found.return_annotation is found.empty else f" -> {annotated(found.return_annotation)}"
    return f"({', '.join(parts)}){result}"


def default(value: Any) -> str:
    if isinstance(value, frozenset) and value:
        return f"frozenset({{{', '.join(map(repr, sorted(value)))}}})"
    named = next((name for name in dir(plugins) if name.isupper() and getattr(plugins, name) is value), None)
    shown = named or repr(value)
    return "…" if shown.startswith("<") or isinstance(value, msgspec.Struct) else shown


def fields(kind: type[msgspec.Struct]) -> str:
    notes: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        notes.update(inspect.get_annotations(base))
    parts = []
    for field in msgspec.structs.fields(kind):
        given = field.default if field.default is not msgspec.NODEFAULT else field.default_factory
        made = given() if given in (list, dict, set) else given
        parts.append(
            f"{field.name}: {annotated(notes[field.name])}"
            + ("" if given is msgspec.NODEFAULT else f" = {default(made)}")
        )
    return f"({', '.join(parts)})"


def members(kind: type) -> Iterator[str]:
    """Its own public methods and properties."""
    for name, value in vars(kind).items():
        if name.startswith("_") or (issubclass(kind, msgspec.Struct) and name in kind.__struct_fields__):
            continue
        if isinstance(value, classmethod | staticmethod):
            yield entry(f"{kind.__name__}.{name}{signature(value.__func__)}", value.__doc__)
        elif inspect.isfunction(value):
            waits = "async " if inspect.iscoroutinefunction(value) else ""
            yield entry(f"{waits}{name}{signature(value)}", value.__doc__)
        elif isinstance(value, property) and value.fget is not None:
            yield entry(f"{name}: {annotated(value.fget.__annotations__.get('return', ''))}", value.__doc__)
    for name, note in inspect.get_annotations(kind).items():
        if getattr(kind, "_is_protocol", False):
            yield entry(f"{name}: {annotated(note)}", None)


def entry(head: str, text: str | None) -> str:
    shown = prose(text)
    return f"- `{head}`" + (f"\n\n{textwrap.indent(shown, '  ')}" if shown else "")


def described(name: str, value: Any) -> str:
    if isinstance(value, type):
        bases = [
            base.__name__ for base in value.__bases__ if hasattr(plugins, base.__name__) and base.__name__ != "Value"
        ]
        beginning = f"### {name}" + (f" ({', '.join(bases)})" if bases else "")
        shape = ""
        if issubclass(value, msgspec.Struct):
            shape = fields(value)
        elif not getattr(value, "_is_protocol", False) and "__init__" in vars(value):
            shape = re.sub(r" -> None$", "", signature(value.__init__))
        parts = [
            beginning,
            f"`{name}{shape}`" if shape else "",
            prose(value.__doc__ if "__doc__" in vars(value) else ""),
        ]
        return "\n\n".join(part for part in (*parts, "\n".join(members(value))) if part)
    if inspect.isfunction(value):
        return f"### {name}\n\n`{name}{signature(value)}`\n\n{prose(value.__doc__)}".rstrip()
    source, text = alias(name, homes()[name])
    return f"### {name}\n\n`{source}`\n\n{prose(text)}".rstrip()


def reference() -> str:
    sections: dict[str, list[str]] = {
        "Ports": [],
        "Values": [],
        "Classes": [],
        "Functions": [],
        "Types and constants": [],
    }
    errors = []
    for name in dir(plugins):
        value = getattr(plugins, name)
        if isinstance(value, type) and issubclass(value, CorralError):
            errors.append(f"| `{name}` | `{value.__bases__[0].__name__}` | {prose(value.__doc__).splitlines()[0]} |")
            continue
        if isinstance(value, type) and getattr(value, "_is_protocol", False):
            section = "Ports"
        elif isinstance(value, type):
            section = "Values" if issubclass(value, msgspec.Struct) else "Classes"
        else:
            section = "Functions" if inspect.isfunction(value) else "Types and constants"
        sections[section].append(described(name, value))
    parts = [HEAD]
    for title, texts in sections.items():
        parts += [f"## {title}\n", *(f"{text}\n" for text in texts)]
    return "\n".join([*parts, "## Errors\n", "| class | is a | meaning |", "|---|---|---|", *errors]) + "\n"


def test_the_reference_is_current() -> None:
    """It has an entry for each name; the names are those that `corral.plugins` shows."""
    pytest.importorskip("numpy")
    current = reference()
    if os.environ.get("CORRAL_WRITE_DOCS"):
        PAGE.write_text(current, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == current, f"CORRAL_WRITE_DOCS=1 pytest {__name__}.py writes it"
    for name in dir(plugins):
        assert re.search(rf"^(### {name}( |$)|\| `{name}` )", current, flags=re.MULTILINE), name

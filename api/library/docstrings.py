"""What a docstring in Google's style says about a function and its parameters."""

from __future__ import annotations

import inspect
import re

__all__ = ("described",)

_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns?|Yields?|Raises|Examples?|Notes?|Attributes):\s*$")
_PARAMETERS = frozenset({"Args", "Arguments", "Parameters"})
_ENTRY = re.compile(r"^\*{0,2}(\w+)\s*(?:\([^()]*\))?\s*:\s*(.*)$")


def described(docstring: str | None) -> tuple[str, dict[str, str]]:
    """The text before the first section, and the descriptions of the parameters by name, each on one line."""
    summary: list[str] = []
    parameters: dict[str, list[str]] = {}
    section, margin, entry = "", 0, [""]
    for line in inspect.cleandoc(docstring or "").splitlines():
        heading = _SECTION.match(line)
        if heading:
            section, margin = heading[1], 0
        elif not section:
            summary.append(line)
        elif section in _PARAMETERS and line.strip():
            indent = len(line) - len(line.lstrip())
            margin = margin or indent
            found = _ENTRY.match(line.strip()) if indent <= margin else None
            if found:
                entry = parameters[found[1]] = [found[2]]
            else:
                entry.append(line.strip())
    texts = {name: " ".join(lines).strip() for name, lines in parameters.items()}
    return "\n".join(summary).strip(), texts

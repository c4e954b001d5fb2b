"""Turns a Modelfile into the call that creates its model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from corral.api.modelfile.instructions import Instruction, InvalidModelfile, Modelfile
from corral.api.modelfile.local_files import adapter_files_at, files_at, is_certainly_a_path, named_relatively, resolved
from corral.core.catalog.create_calls import CreateCall, GivenAdapter
from corral.core.errors import InvalidRequest, NotFound
from corral.core.models.names import ModelName
from corral.core.requests.messages import Message
from corral.core.requests.options import RETIRED, parse_parameter

__all__ = ("call_of", "retired_parameters")

_SEMVER = re.compile(
    r"v?(?P<version>(0|[1-9]\d*)(\.(0|[1-9]\d*)(\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(\.(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*)?"
    r"(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?)?)?)",
    re.ASCII,
)


_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def call_of(modelfile: Modelfile, name: ModelName, folder: Path) -> CreateCall:
    """The call; its files are paths. FROM is a file or folder if there is one, relative to `folder`, otherwise a name.

    Raises `InvalidRequest` with Ollama's texts, and `NotFound` for a path where nothing is. Blocking.
    """
    base = ""
    files: list[Path] = []
    for written in modelfile.values("from"):
        if not written:
            raise InvalidModelfile("FROM names nothing", "say what to start from: FROM NAME, or FROM ./model.gguf")
        path = resolved(written, folder)
        if "://" not in written and path.exists():
            files += files_at(path)
        elif is_certainly_a_path(written):
            raise NotFound(f"there is no file or folder {path}", "paths begin in the folder of the Modelfile")
        else:
            base = written
    drafts = [file for written in modelfile.values("draft") for file in files_at(resolved(written, folder))]
    for draft in drafts:
        if any(draft.samefile(file) for file in files):
            raise InvalidRequest(f"DRAFT must not reference the same local path as FROM: {draft}")
    return CreateCall(
        name=name,
        base=base,
        files=named_relatively(files) if files else None,
        adapters=tuple(_adapter(written, folder) for written in modelfile.values("adapter")),
        draft_files=named_relatively(drafts) if drafts else None,
        template=modelfile.last("template"),
        system=modelfile.last("system"),
        parameters=_parameters(modelfile),
        messages=tuple(
            Message(role=one.name, content=one.value) for one in modelfile.instructions if one.keyword == "message"
        ),
        licenses=modelfile.values("license"),
        renderer=modelfile.last("renderer"),
        parser=modelfile.last("parser"),
        requires=_version(modelfile.last("requires")),
    )


def _adapter(written: str, folder: Path) -> GivenAdapter:
    """A path, and a scale behind it unless all of it is the path of something."""
    path, _, last = written.rpartition(" ")
    if path and _NUMBER.fullmatch(last) and not resolved(written, folder).exists():
        return GivenAdapter(
            files=named_relatively(adapter_files_at(resolved(path.rstrip(), folder))), scale=float(last)
        )
    return GivenAdapter(files=named_relatively(adapter_files_at(resolved(written, folder))))


def retired_parameters(modelfile: Modelfile) -> tuple[str, ...]:
    """The names of its parameters that have no effect any more."""
    names = dict.fromkeys(one.name for one in modelfile.instructions if one.keyword == "parameter")
    return tuple(name for name in names if name in RETIRED)


def _parameters(modelfile: Modelfile) -> dict[str, Any]:
    """Those that make lists collect all of their values; of others, the last one counts. Retired ones are left out."""
    values: dict[str, list[str]] = {}
    for one in modelfile.instructions:
        if one.keyword == "parameter":
            values.setdefault(one.name, []).append(_checked(one))
    parameters = {name: parse_parameter(name, texts) for name, texts in values.items()}
    return {name: value for name, value in parameters.items() if value is not None}


def _checked(parameter: Instruction) -> str:
    """Each value is checked alone, so that an error shows this one."""
    parse_parameter(parameter.name, [parameter.value])
    return parameter.value


def _version(written: str) -> str:
    found = _SEMVER.fullmatch(written)
    if written and found is None:
        raise InvalidRequest("requires must be a valid semver (e.g. 0.14.0)", f"REQUIRES {written[:40]!r} is none")
    return found["version"] if found else ""

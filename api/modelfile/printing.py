"""Writes Modelfiles that `parse_modelfile` reads back as they were."""

from __future__ import annotations

from contextlib import suppress

from corral.api.modelfile.instructions import Instruction, InvalidModelfile, Modelfile
from corral.api.modelfile.parsing import QUOTES, read_value
from corral.core.errors import InvalidRequest

__all__ = ("print_instruction", "print_modelfile")


def print_modelfile(modelfile: Modelfile) -> str:
    """One instruction after the other. Raises `InvalidRequest` as `print_instruction` does."""
    return "".join(f"{print_instruction(instruction)}\n" for instruction in modelfile.instructions)


def print_instruction(instruction: Instruction) -> str:
    """The instruction without a line break at its end, with quotes only if its value needs them.

    Raises `InvalidRequest` for a value that the grammar, which has no escapes, cannot express: one of several lines,
    of which one ends with quotes of each kind.
    """
    words = [instruction.keyword.upper(), instruction.name] if instruction.name else [instruction.keyword.upper()]
    return " ".join((*words, _written(instruction)))


def _written(instruction: Instruction) -> str:
    value = instruction.value
    for quotes in ("", *(QUOTES if '"' in value else reversed(QUOTES))):  # Ollama's preference
        written = f"{quotes}{value}{quotes}"
        with suppress(InvalidModelfile):
            if read_value(written, 0) == (value, len(written)):
                return written
    raise InvalidRequest(
        f"a Modelfile cannot have this {instruction.keyword.upper()}: one of its lines ends with quotes",
        "put another character after the quotes, or name a model that has it in FROM",
    )

"""Modelfiles: every instruction, all ways to write a value, Ollama's errors, and that what is printed is read back."""

from __future__ import annotations

import os
import random

import pytest

from corral.api.modelfile.instructions import INSTRUCTIONS, ROLES, Instruction, InvalidModelfile, Modelfile
from corral.api.modelfile.parsing import decode_modelfile, parse_modelfile
from corral.api.modelfile.printing import print_modelfile
from corral.core.errors import InvalidRequest

CASES = int(os.environ.get("CORRAL_MODELFILE_CASES", 400))
KEYWORDS = ", ".join(f'"{one}"' for one in INSTRUCTIONS[:-1]) + f', or "{INSTRUCTIONS[-1]}"'


def parsed(text: str) -> list[tuple[str, ...]]:
    """The instructions as (keyword, value) or (keyword, name, value)."""
    return [
        (one.keyword, one.name, one.value) if one.name else (one.keyword, one.value)
        for one in parse_modelfile(text).instructions
    ]


def value_of(written: str) -> str:
    return parse_modelfile(f"FROM x\nSYSTEM {written}\n").last("system")


def test_every_instruction() -> None:
    """Keywords match in any case; comments and blank lines between instructions do not count."""
    text = """
# a comment
FROM llama3
  from ./vision.gguf
Template {{ .Prompt }}
sYsTeM You are # not a comment.
ADAPTER ./lora.gguf
\tDRAFT small.gguf
RENDERER r
PARSER p
PARAMETER temperature 0.5
PARAMETER stop <|end|>
MESSAGE user Hi: there
LICENSE MIT
REQUIRES 0.14.0
"""
    assert parsed(text) == [
        ("from", "llama3"), ("from", "./vision.gguf"), ("template", "{{ .Prompt }}"),
        ("system", "You are # not a comment."), ("adapter", "./lora.gguf"), ("draft", "small.gguf"),
        ("renderer", "r"), ("parser", "p"), ("parameter", "temperature", "0.5"), ("parameter", "stop", "<|end|>"),
        ("message", "user", "Hi: there"), ("license", "MIT"), ("requires", "0.14.0"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("plain words ", "plain words"), ('"quoted "', "quoted "), ('"""three"""', "three"), ('""', ""),
        ('""""""', ""), ('"two\n lines"', "two\n lines"), ('"""\ntwo\r\n"""  ', "\ntwo\r\n"), ('say "hi"', 'say "hi"'),
        ('"""say "hi"""", and go\n"""', 'say "hi"""", and go\n'), ("'single'", "'single'"), ('"a" b\nc"', 'a" b\nc'),
        ('"""""""', '"'), ("\u00a0x\u00a0", "x"), ("a\u200db", "a\u200db"), ("\\n", "\\n"), ("", ""),
    ],
)  # fmt: skip
def test_the_value(written: str, value: str) -> None:
    """A value is the rest of its line, or what is in quotes, of one or three, to the first line that ends with them."""
    assert value_of(written) == value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_byte_order_marks(encoding: str) -> None:
    """A Modelfile is UTF-8, or UTF-16 if its first bytes say so, with any line ends."""
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    data = mark + "FROM x\r\nSYSTEM grün 🙂\r\n".encode(encoding)
    assert parsed(decode_modelfile(data)) == [("from", "x"), ("system", "grün 🙂")]
    assert decode_modelfile(b"FROM \xff") == "FROM \ufffd"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM x\nFORM y\n", f"(line 2): command must be one of {KEYWORDS}"),
        ("\r\n\r\nFR0M x", f"(line 3): command must be one of {KEYWORDS}"),
        ("FROM\nPARSER x", f"(line 1): command must be one of {KEYWORDS}"),
        ('SYSTEM """a\nb"""\nc', "unexpected EOF"),
        ('SYSTEM """a\nb"""\nc d', f"(line 3): command must be one of {KEYWORDS}"),
        ("FROM", "unexpected EOF"),
        ('FROM x\nSYSTEM """a\nb"', "unexpected EOF"),
        ('FROM x\nSYSTEM "a', "unexpected EOF"),
        ("FROM x\nPARAMETER temperature\n", "(line 2): unexpected EOF: temperature"),
        ("FROM x\nMESSAGE user", "(line 2): unexpected EOF: user"),
        ("FROM x\nMESSAGE tool x", '(line 2): message role must be one of "system", "user", or "assistant"'),
        ("", "no FROM line"),
        ("# FROM x\nSYSTEM y", "no FROM line"),
    ],
)
def test_what_is_wrong(text: str, message: str) -> None:
    """Errors have Ollama's texts, and the line."""
    with pytest.raises(InvalidModelfile) as caught:
        parse_modelfile(text)
    assert caught.value.message == message


def test_what_cannot_be_written() -> None:
    """A value in which lines end with quotes of both kinds is refused, not written as something else."""
    hopeless = Instruction(keyword="system", value='"""a"""\nb')
    with pytest.raises(InvalidRequest, match="cannot have this SYSTEM"):
        print_modelfile(Modelfile(instructions=(Instruction(keyword="from", value="x"), hopeless)))


def test_a_large_value_is_read_at_once() -> None:
    """A quoted value of a hundred thousand lines is read in one pass."""
    text = "\n".join(['a line with a " in it'] * 100_000)
    assert value_of(f'"""{text}"""') == text


def test_what_is_printed_is_read_back() -> None:
    """Any instructions come back from their text exactly as they were, unless printing says that it cannot."""
    pieces = ['"', '"""', "\n", "\r\n", "\r", " ", "\t", "#", "a", "FROM x", "{{ .Prompt }}", "\u00a0", "é", "\x00"]
    refused = 0
    for seed in range(CASES):
        chance = random.Random(seed)
        values = ["".join(chance.choices(pieces, k=chance.randrange(8))) for _ in range(4)]
        instructions = [Instruction(keyword="from", value="x")]
        for value in values:
            keyword = chance.choice(INSTRUCTIONS)
            name = {"parameter": "stop", "message": chance.choice(ROLES)}.get(keyword, "")
            instructions.append(Instruction(keyword=keyword, name=name, value=value))
        modelfile = Modelfile(instructions=tuple(instructions))
        try:
            text = print_modelfile(modelfile)
        except InvalidRequest:
            refused += 1
            continue
        assert parse_modelfile(text) == modelfile, text
        assert parse_modelfile(decode_modelfile(text.encode("utf-16"))) == modelfile
    assert refused < CASES / 4

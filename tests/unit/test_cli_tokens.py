"""``corral tokenize`` on a temporary store."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from corral import Corral
from corral.plugins.testing.gguf import gguf_bytes

Tokenize = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def tokenize(
    tmp_path_factory: pytest.TempPathFactory, user_at: Callable[..., dict[str, str]], call_corral: Tokenize
) -> Tokenize:
    home = tmp_path_factory.mktemp("home")
    (home / "small.gguf").write_bytes(gguf_bytes())
    environment = user_at(home, CORRAL_ENGINE="fake")
    with Corral(models=Path(environment["CORRAL_MODELS"]), config="") as library:
        library.import_model(home / "small.gguf", name="small")
    return lambda *words, **more: call_corral(environment, "tokenize", *words, **more)


def test_a_table_a_number_or_an_object(tokenize: Tokenize) -> None:
    """The tokens of a text as it is given, with their texts, or as bytes where a character is spread over several."""
    table = tokenize("small", "the ç").stdout.splitlines()
    ids = [line.split()[0] for line in table[1:]]
    assert [line.split(maxsplit=1)[1] for line in table] == ["TEXT", "'the'", "' '", r"b'\xc3'", r"b'\xa7'"]
    assert tokenize("small", "the ç", "--count").stdout == "4\n"
    told = json.loads(tokenize("small", "the ç", "--json").stdout)
    assert [str(one) for one in told["tokens"]] == ids
    assert told["pieces"] == ["the", " ", [0xC3], [0xA7]]
    assert (told["count"], told["prompt"]) == (4, "the ç")


def test_a_chat_and_piped_texts(tokenize: Tokenize) -> None:
    """A message is shown as it is sent; a text may be piped in, and comes as it is."""
    assert json.loads(tokenize("small", "the", "--chat", "--json").stdout)["pieces"][0] == "<|bos|>"
    assert json.loads(tokenize("small", "--json", input="the\n").stdout)["prompt"] == "the\n"


@pytest.mark.parametrize(
    ("words", "given", "text"),
    [
        (("smoll", "x"), "", "did you mean small"),
        (("small",), b"\xff", "the piped input is not UTF-8 text"),
        (("small", "x", "--count", "--json"), "", "exclude each other"),
    ],
)
def test_what_cannot_be_tokenized(tokenize: Tokenize, words: tuple[str, ...], given: str | bytes, text: str) -> None:
    """Says why."""
    done = tokenize(*words, input=given)
    assert done.returncode
    assert text in done.stderr

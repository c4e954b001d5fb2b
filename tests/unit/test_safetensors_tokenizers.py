"""What the converter of checkpoints makes of tokenizers, special tokens and chat templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.converters.safetensors.checkpoint import Checkpoint
from corral.adapters.converters.safetensors.tokenizers.choice import tokenizer_keys
from corral.adapters.converters.safetensors.tokenizers.pre_tokenizer import pre_tokenizer_name
from corral.adapters.formats.gguf.pretokenizers import PRE_TOKENIZERS
from corral.core.errors import InvalidModelFile, Unsupported
from tests.checkpoints.tiny import CHATML, write_tiny_checkpoint

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
WORDS = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


def split(pattern: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def sequence(*steps: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


LLAMA3 = PRE_TOKENIZERS["llama3"].patterns[0]
QWEN2 = PRE_TOKENIZERS["qwen2"].patterns[0]


@pytest.mark.parametrize(
    ("step", "ignore_merges", "name"),
    [
        (WORDS, False, "gpt-2"),
        (sequence(DIGITS, WORDS), False, "smollm"),
        (sequence(split(LLAMA3), BYTE_LEVEL), True, "llama-bpe"),
        (sequence(split(LLAMA3, "Removed", True), BYTE_LEVEL), True, "llama-bpe"),
        (sequence(split(LLAMA3), BYTE_LEVEL), False, "dbrx"),
        (sequence(split(QWEN2), BYTE_LEVEL), False, "qwen2"),
        (sequence(split(PRE_TOKENIZERS["tekken"].patterns[0]), BYTE_LEVEL), True, "tekken"),
        (sequence(*map(split, PRE_TOKENIZERS["deepseek-v3"].patterns), BYTE_LEVEL), False, "deepseek-v3"),
    ],
)
def test_the_pre_tokenizer_follows_from_its_steps(step: Any, ignore_merges: bool, name: str) -> None:
    """What tokenizer.json says is compared with what llama.cpp does under each name."""
    assert pre_tokenizer_name({"pre_tokenizer": step}, ignore_merges=ignore_merges) == name


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (sequence(split(r"\w+"), BYTE_LEVEL), r"\\w\+"),
        (sequence(split(QWEN2, "MergedWithNext"), BYTE_LEVEL), "a step that llama.cpp does not have"),
        (sequence({"type": "Whitespace"}, BYTE_LEVEL), "a step that llama.cpp does not have: .*Whitespace"),
        ({**WORDS, "add_prefix_space": True}, "a step that llama.cpp does not have"),
        ({"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated"}, "does not have"),
        (None, "does not have"),
        ("x", "does not have"),
    ],
)
def test_an_unknown_pre_tokenizer_is_an_error(step: Any, text: str) -> None:
    """It is never guessed: with another one, the model would get other tokens than it knows."""
    with pytest.raises(Unsupported, match=text):
        pre_tokenizer_name({"pre_tokenizer": step}, ignore_merges=False)


def test_normalizers() -> None:
    """NFC, which changes hardly any text, is passed over; what changes more is an error."""
    assert pre_tokenizer_name({"normalizer": {"type": "NFC"}, "pre_tokenizer": WORDS}, ignore_merges=False) == "gpt-2"
    with pytest.raises(Unsupported, match="normalises text with 'Lowercase'"):
        pre_tokenizer_name(
            {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}, "pre_tokenizer": WORDS},
            ignore_merges=False,
        )


class Changed:
    """A tiny checkpoint whose JSON files are changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = write_tiny_checkpoint(folder)

    def change(self, file: str, **values: Any) -> None:
        path = self.folder / file
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | values))

    def keys(self, rows: int = 264) -> dict[str, Any]:
        files = {file.name: file for file in self.folder.iterdir()}
        with Checkpoint(files) as checkpoint:
            found = tokenizer_keys(checkpoint, rows)
        return {key.removeprefix("tokenizer.").removeprefix("ggml."): value for key, value in found.items()}


@pytest.fixture
def tiny(tmp_path: Path) -> Changed:
    return Changed(tmp_path / "tiny")


def test_the_vocabulary(tiny: Changed) -> None:
    """Tokens are in the order of their numbers, with their kinds; rows without a token are unused."""
    keys = tiny.keys()
    assert (keys["model"], keys["pre"], keys["merges"]) == ("gpt2", "gpt-2", ["h e"])
    assert keys["tokens"][256:] == [
        "he", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "[PAD260]", "[PAD261]", "[PAD262]", "[PAD263]",
    ]  # fmt: skip
    assert keys["token_type"][255:] == [1, 1, 3, 3, 3, 5, 5, 5, 5]
    assert keys["chat_template"] == CHATML


def test_special_tokens(tiny: Changed) -> None:
    """Names come before numbers, several ends are all kept, and tokens are added as the tokenizer says."""
    keys = tiny.keys()
    assert (keys["bos_token_id"], keys["eos_token_id"], keys["eos_token_ids"]) == (257, 259, [259, 257])
    assert keys["add_bos_token"] is False
    tiny.change("tokenizer_config.json", eos_token="<|endoftext|>", pad_token="<|im_start|>", add_bos_token=True)
    keys = tiny.keys()
    assert (keys["eos_token_id"], keys["eot_token_id"], keys["padding_token_id"]) == (257, 259, 258)
    assert keys["add_bos_token"] is True
    tiny.change("tokenizer_config.json", eos_token=None, bos_token=None)
    tiny.change("config.json", bos_token_id=258, pad_token_id=-1, unk_token_id=10**9)
    keys = tiny.keys()
    assert (keys["bos_token_id"], keys["eos_token_id"]) == (258, 259)
    assert "unknown_token_id" not in keys


def test_what_the_template_of_the_tokenizer_adds(tiny: Changed) -> None:
    """Without a word in tokenizer_config.json, the post-processor says which tokens are added."""
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>"}}, {"Sequence": {"id": "A"}}],
    }
    tiny.change("tokenizer_config.json", add_bos_token=None)
    assert tiny.keys()["add_bos_token"] is False
    tiny.change("tokenizer.json", post_processor={"type": "Sequence", "processors": [WORDS, template]})
    keys = tiny.keys()
    assert (keys["add_bos_token"], keys["add_eos_token"]) == (True, False)
    tiny.change("tokenizer_config.json", bos_token="<|im_start|>")
    with pytest.raises(InvalidModelFile, match=r"adds the token .*endoftext.* to every text"):
        tiny.keys()


def test_added_tokens_that_are_text(tiny: Changed) -> None:
    """Those that are not special are found in any text, unless they look like control tokens."""
    added = [
        {"id": 257, "content": "<think>", "special": False},
        {"id": 258, "content": "<|im_start|>", "special": False},
        {"id": 259, "content": "<|im_end|>", "special": True},
    ]
    tiny.change("tokenizer.json", added_tokens=added)
    assert tiny.keys()["token_type"][257:260] == [4, 3, 3]


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"added_tokens": [{"id": 264, "content": "new"}]}, InvalidModelFile, "the number 264, but the model has 264"),
        ({"added_tokens": [{"id": 5, "content": "new"}]}, InvalidModelFile, "have the same number, 5"),
        ({"added_tokens": [{"id": 262, "content": "he"}]}, InvalidModelFile, "has the numbers 262 and 256"),
        ({"added_tokens": [{"content": "x"}]}, InvalidModelFile, "tokenizer.json is malformed: added_tokens"),
        ({"model": {"type": "BPE", "vocab": ["a"]}}, InvalidModelFile, "tokenizer.json is malformed: model"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "end_of_word_suffix": "</w>"}}, Unsupported, "'</w>'"),
        ({"model": {"type": "Unknown"}}, Unsupported, "a tokenizer of the kind 'Unknown'"),
    ],
)
def test_broken_tokenizers(tiny: Changed, changed: dict[str, Any], error: type[Exception], text: str) -> None:
    """Each error says what is wrong with tokenizer.json."""
    tiny.change("tokenizer.json", **changed)
    with pytest.raises(error, match=text):
        tiny.keys()


def test_chat_templates(tiny: Changed) -> None:
    """A file of its own comes first; several have names."""
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}, {"name": 1}]
    tiny.change("tokenizer_config.json", chat_template=named)
    keys = tiny.keys()
    assert (keys["chat_template"], keys["chat_template.tool_use"]) == ("a", "b")
    tiny.change("chat_template.json", chat_template="c")
    assert tiny.keys()["chat_template"] == "c"
    (tiny.folder / "chat_template.jinja").write_text("d")
    assert tiny.keys()["chat_template"] == "d"
    (tiny.folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(InvalidModelFile, match=r"chat_template\.jinja is no text"):
        tiny.keys()

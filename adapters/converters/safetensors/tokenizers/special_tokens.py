"""Which tokens begin, end and fill texts, and which are added to every text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corral.adapters.converters.safetensors.checkpoint import Checkpoint
from corral.core.errors import InvalidModelFile

__all__ = ("special_keys", "token_text")

_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # llama.cpp's spelling
    "pad": "padding_token_id",
    "cls": "cls_token_id",
    "mask": "mask_token_id",
}
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<EOT>", "<|end_of_turn|>")
"""Texts of tokens that end a turn, where a text's own end is another token."""


def special_keys(checkpoint: Checkpoint, tokens: Sequence[str], description: Mapping[str, Any]) -> dict[str, Any]:
    """The keys below ``tokenizer.ggml`` for special tokens.

    `tokens` are all texts; `description` is the content of ``tokenizer.json``, which may be empty. The names in
    ``tokenizer_config.json`` come first, then the numbers in ``generation_config.json`` and ``config.json``.
    """
    named = checkpoint.optional_json("tokenizer_config.json")
    generation = checkpoint.optional_json("generation_config.json")
    numbers = {text: index for index, text in enumerate(tokens)}
    found: dict[str, int] = {}
    for role in _KEYS:
        text = token_text(named.get(f"{role}_token"))
        candidates = [numbers[text]] if text in numbers else []
        candidates += _ids(generation.get(f"{role}_token_id"), len(tokens))
        candidates += _ids(checkpoint.config.raw(f"{role}_token_id"), len(tokens))
        if candidates:
            found[role] = candidates[0]
    keys: dict[str, Any] = {f"tokenizer.ggml.{_KEYS[role]}": index for role, index in found.items()}
    ends = list(dict.fromkeys([*([found["eos"]] if "eos" in found else []), *_ends(checkpoint, generation, tokens)]))
    if len(ends) > 1:
        keys["tokenizer.ggml.eos_token_ids"] = ends
        turn_ends = [index for index in ends[1:] if tokens[index] in _TURN_ENDS]
        if turn_ends:
            keys["tokenizer.ggml.eot_token_id"] = turn_ends[0]
    keys |= _added(named, description, tokens, found)
    return keys


def _ends(checkpoint: Checkpoint, generation: Mapping[str, Any], tokens: Sequence[str]) -> list[int]:
    return [
        *_ids(generation.get("eos_token_id"), len(tokens)),
        *_ids(checkpoint.config.raw("eos_token_id"), len(tokens)),
    ]


def _added(
    named: Mapping[str, Any], description: Mapping[str, Any], tokens: Sequence[str], found: Mapping[str, int]
) -> dict[str, bool]:
    """Which tokens are added to a text: as ``tokenizer_config.json`` says, else the template of ``tokenizer.json``."""
    first, last = _frame(description.get("post_processor"))
    usual = {} if description else {"add_bos_token": True}  # as transformers has it for tokenizer.model
    keys = {}
    for role, text in (("bos", first), ("eos", last)):
        stated = {**usual, **named}.get(f"add_{role}_token")
        index = found.get(role)
        added = stated if isinstance(stated, bool) else text is not None
        if added and not isinstance(stated, bool) and (index is None or tokens[index] != text):
            raise InvalidModelFile(
                f"tokenizer.json adds the token {text!r} to every text, which is not its {role}_token",
                "correct tokenizer_config.json",
            )
        keys[f"tokenizer.ggml.add_{role}_token"] = added and index is not None
    return keys


def _frame(step: Any) -> tuple[str | None, str | None]:
    """The special tokens before and after a single text in the template of ``post_processor``; None for none."""
    for template in _templates(step):
        texts = [part.get("SpecialToken", {}).get("id") if isinstance(part, dict) else None for part in template]
        if len(texts) > 1:
            return texts[0], texts[-1]
    return None, None


def _templates(step: Any) -> Iterator[list[Any]]:
    if not isinstance(step, dict):
        return
    if isinstance(step.get("processors"), list):
        for inner in step["processors"]:
            yield from _templates(inner)
    if step.get("type") == "TemplateProcessing" and isinstance(step.get("single"), list):
        yield step["single"]


def token_text(entry: Any) -> str | None:
    """The text of a token in ``tokenizer_config.json``, which may be given with its properties; None without one."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else None


def _ids(value: Any, count: int) -> list[int]:
    """The numbers of tokens in a configuration: one, or several. Numbers without a token are left out."""
    return [one for one in (value if isinstance(value, list) else [value]) if type(one) is int and 0 <= one < count]

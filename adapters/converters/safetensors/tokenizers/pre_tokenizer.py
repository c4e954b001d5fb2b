"""Recognises how a ``tokenizer.json`` cuts text before merging, and gives it llama.cpp's name for that.

The name follows from the steps themselves: a tokenizer whose steps llama.cpp does not have is refused, since with any
other name the model would get other tokens than it was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corral.adapters.formats.gguf.pretokenizers import PRE_TOKENIZERS
from corral.core.errors import Unsupported

__all__ = ("pre_tokenizer_name",)

_WORDS = PRE_TOKENIZERS["gpt-2"].patterns[0]
_WHOLE = (("Isolated", False), ("Removed", True))  # what matches becomes pieces


def pre_tokenizer_name(description: Mapping[str, Any], *, ignore_merges: bool) -> str:
    """The value of ``tokenizer.ggml.pre``. Raises `Unsupported`, with the steps, if llama.cpp has no such name."""
    _check_normalizer(description.get("normalizer"))
    patterns = tuple(_patterns(description.get("pre_tokenizer")))
    for name, known in PRE_TOKENIZERS.items():
        if name != "default" and known.patterns == patterns and known.ignore_merges == ignore_merges:
            return name
    raise Unsupported(
        f"tokenizer.json cuts text in a way that llama.cpp is not known to have: {' then '.join(patterns)[:500]!r}"
        + (", and takes whole words that are tokens" if ignore_merges else ""),
        "convert it with llama.cpp's own convert_hf_to_gguf.py",
    )


def _check_normalizer(step: Any) -> None:
    """llama.cpp normalises no byte-level text; NFC changes nothing in nearly all that people write."""
    if isinstance(step, dict) and step.get("type") == "Sequence" and isinstance(step.get("normalizers"), list):
        for inner in step["normalizers"]:
            _check_normalizer(inner)
    elif step is not None and not (isinstance(step, dict) and step.get("type") == "NFC"):
        kind = step.get("type") if isinstance(step, dict) else step
        raise Unsupported(f"tokenizer.json normalises text with {kind!r}, which llama.cpp does not do")


def _patterns(step: Any) -> list[str]:
    """The regular expressions of a step, one after the other."""
    kind = step.get("type") if isinstance(step, dict) else None
    if kind == "Sequence" and isinstance(step.get("pretokenizers"), list):
        return [pattern for inner in step["pretokenizers"] for pattern in _patterns(inner)]
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return [_WORDS] if step.get("use_regex", True) else []
    if kind == "Digits":
        return [r"\p{N}" if step.get("individual_digits") else r"\p{N}+"]
    if kind == "Split" and (step.get("behavior"), step.get("invert", False)) in _WHOLE:
        pattern = step.get("pattern")
        expression = pattern.get("Regex") if isinstance(pattern, dict) else None
        if isinstance(expression, str):
            return [expression]
    raise Unsupported(f"tokenizer.json cuts text with a step that llama.cpp does not have: {str(step)[:200]}")

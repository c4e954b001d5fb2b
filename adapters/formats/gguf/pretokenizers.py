"""How byte-level BPE vocabularies cut text before merging: the patterns behind ``tokenizer.ggml.pre``.

The names are those of llama.cpp (``llama-vocab.cpp``), which also takes the patterns from the models' own
``tokenizer.json``. Every one is tested against llama.cpp's tokenizer.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("PRE_TOKENIZERS", "PreTokenizer")


class PreTokenizer(NamedTuple):
    r"""`patterns` are applied one after the other; matches and what lies between them become pieces.

    `ignore_merges`: a piece that is a token is taken whole. `add_bos`: unless the header says otherwise.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_MARKS = r" ?[^\s\p{L}\p{N}]+"

_GPT2 = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+|{_MARKS}|\s+(?!\S)|\s+"
_DIGIT_WISE = PreTokenizer((r"\p{N}", _GPT2))
_GPT2_ONLY = PreTokenizer((_GPT2,))


def _words(digits: str) -> str:
    """The pattern that Llama 3 and Qwen 2 share except for the number of digits in a piece."""
    return rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|{_MARKS}[\r\n]*|{_SPACES}"


_LLAMA3 = PreTokenizer((_words(r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True)
_QWEN2 = PreTokenizer((_words(r"\p{N}"),))
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    rf"|\p{{N}}|{_MARKS}[\r\n/]*|{_SPACES}"
)
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
)

PRE_TOKENIZERS = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "gpt-2": _GPT2_ONLY,
    "olmo": _GPT2_ONLY,
    "exaone4": _GPT2_ONLY,
    "smollm": _DIGIT_WISE,
    "starcoder": _DIGIT_WISE,
    "refact": _DIGIT_WISE,
    "command-r": _DIGIT_WISE,
    "codeshell": _DIGIT_WISE,
    "exaone": _DIGIT_WISE,
    "minerva-7b": _DIGIT_WISE,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "dbrx": PreTokenizer(_LLAMA3.patterns),
    "smaug-bpe": PreTokenizer(_LLAMA3.patterns),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "stablelm2": _QWEN2,
    "deepseek-v3": PreTokenizer(_DEEPSEEK3),
    "tekken": PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True),
}
"""By ``tokenizer.ggml.pre``; a header without that key means ``default``."""

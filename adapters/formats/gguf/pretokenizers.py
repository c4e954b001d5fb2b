"""How byte-level BPE vocabularies split text into words, by the name in ``tokenizer.ggml.pre``."""

from __future__ import annotations

from corral.core.values import Value

__all__ = ("PRETOKENIZERS", "PreTokenizer")


class PreTokenizer(Value, frozen=True, kw_only=True):
    r"""A text is cut by the first pattern into matches and what lies between, each of these by the next, and so on.

    Patterns use ``\p{L}`` and ``\p{N}``. `ignore_merges`: a word that is a token is never put together by merges.
    `add_bos` holds where the header is silent. Source: llama.cpp, ``llm_tokenizer_bpe`` in ``src/llama-vocab.cpp``.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_TIKTOKEN_WORDS = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_GPT2 = PreTokenizer(patterns=(_GPT2_WORDS,))
_SINGLE_DIGITS = PreTokenizer(patterns=(r"\p{N}", _GPT2_WORDS))
_LLAMA3 = PreTokenizer(patterns=(_TIKTOKEN_WORDS % "{1,3}",), ignore_merges=True, add_bos=True)
_QWEN2 = PreTokenizer(patterns=(_TIKTOKEN_WORDS % "",))

PRETOKENIZERS = {
    "gpt-2": _GPT2,
    "olmo": _GPT2,
    "smollm": _SINGLE_DIGITS,
    "starcoder": _SINGLE_DIGITS,
    "refact": _SINGLE_DIGITS,
    "command-r": _SINGLE_DIGITS,
    "codeshell": _SINGLE_DIGITS,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "qwen2": _QWEN2,
    "stablelm2": _QWEN2,
}

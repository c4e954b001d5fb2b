"""Reads a GGUF file's vocabulary: token texts, kinds, scores and merges, and the bytes that each token stands for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from corral.adapters.formats.gguf.header import Array, HeaderFile
from corral.core.errors import InvalidModelFile
from corral.core.random_access import RandomAccessFile
from corral.core.values import Value

__all__ = (
    "BYTE",
    "CONTROL",
    "NORMAL",
    "SPACE",
    "UNKNOWN",
    "UNUSED",
    "USER_DEFINED",
    "GgufVocabulary",
    "byte_level_text",
    "bytes_of_byte_level",
    "read_vocabulary",
)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""``tokenizer.ggml.token_type``: the kinds of tokens, as in llama.cpp's ``llama_token_type``."""

SPACE = "\u2581"
"""What stands for a space in the pieces of an SPM vocabulary."""

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ENDING_TEXTS = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|endoftext|>", "<|eom_id|>",
        "<|end_of_text|>", "<end_of_turn>", "<end_of_utterance>", "</s>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
        "<｜end▁of▁sentence｜>",
        "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
        "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
    }
)  # fmt: skip
"""Tokens that end an answer whatever the header says, as in llama.cpp (``special_eog_ids``)."""


def _byte_level_table() -> dict[int, str]:
    """GPT-2's ``bytes_to_unicode``: printable bytes stand for themselves, the others for the characters from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}


_CHARACTERS = _byte_level_table()
_BYTES = {character: byte for byte, character in _CHARACTERS.items()}
_LATIN_1 = dict.fromkeys(range(128, 256), "\uffff") | {ord(one): chr(byte) for one, byte in _BYTES.items()}
"""Each character as the one whose code is its byte; what is no byte-level spelling, as one that Latin-1 lacks."""


def byte_level_text(data: bytes) -> str:
    """Bytes as byte-level BPE spells them, one character for each."""
    return "".join([_CHARACTERS[byte] for byte in data])


def bytes_of_byte_level(text: str) -> bytes:
    """The bytes that a byte-level spelling stands for; other characters stand for themselves."""
    if text.isascii():
        return text.encode()
    try:  # a vocabulary has 200,000 tokens, nearly all of which are spelt well
        return text.translate(_LATIN_1).encode("latin-1")
    except UnicodeEncodeError:
        pass
    return b"".join([bytes((_BYTES[one],)) if one in _BYTES else one.encode() for one in text])


class GgufVocabulary(Value, frozen=True, kw_only=True):
    """What ``tokenizer.ggml.*`` says. `model` is ``gpt2`` (byte-level BPE) or ``llama`` (SPM); `pre` names the
    pre-tokenizer.

    `kinds`, `scores` and `merges` may be empty. `add_bos`, `add_eos` and `add_space_prefix` are None if the header does
    not say. `named` are the ids of special tokens by their names in the header (``bos``, ``eos``, ``eot``,
    ``unknown``).
    """

    model: str
    texts: tuple[str, ...]
    pre: str = ""
    kinds: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    add_bos: bool | None = None
    add_eos: bool | None = None
    add_space_prefix: bool | None = None
    named: Mapping[str, int] = {}

    def kind(self, token_id: int) -> int:
        """As the header says, except that tokens whose spelling ends an answer are always control tokens."""
        if self.texts[token_id] in _ENDING_TEXTS:
            return CONTROL
        return self.kinds[token_id] if token_id < len(self.kinds) else NORMAL

    def ids_of(self, *kinds: int) -> frozenset[int]:
        """The tokens of these kinds."""
        return frozenset(place for place in range(len(self.texts)) if self.kind(place) in kinds)

    def control_ids(self) -> frozenset[int]:
        """Tokens that are not text: control tokens and the unknown token."""
        return self.ids_of(CONTROL, UNKNOWN)

    def ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        named = {self.named[name] for name in ("eos", "eot", "eom") if name in self.named}
        return frozenset(named | {place for place, text in enumerate(self.texts) if text in _ENDING_TEXTS})

    def pieces(self) -> tuple[bytes, ...]:
        """The bytes of every token, by id; for a control token, its spelling."""
        spelt = bytes_of_byte_level if self.model == "gpt2" else _bytes_of_spm
        return tuple(
            [
                spelt(text) if self.kind(place) in (NORMAL, UNUSED, BYTE) else text.encode()
                for place, text in enumerate(self.texts)
            ]
        )


def _bytes_of_spm(text: str) -> bytes:
    byte = _BYTE_PIECE.fullmatch(text)
    return bytes((int(byte[1], 16),)) if byte else text.replace(SPACE, " ").encode()


def read_vocabulary(path: Path, *, prefix: str = "") -> GgufVocabulary | None:
    """The vocabulary whose keys begin with `prefix`; None if the file has none.

    Raises `InvalidModelFile` for a file that cannot be read, and for ids or counts that do not fit the tokens.
    """
    with RandomAccessFile(path) as source:
        file = HeaderFile(source)
        pairs = file.header().pairs
        stem = f"{prefix}tokenizer.ggml."
        if not isinstance(pairs.get(f"{stem}tokens"), Array):
            return None
        return _vocabulary(path, pairs, stem, file.values)


def _vocabulary(
    path: Path, pairs: Mapping[str, Any], stem: str, values: Callable[[Array], Sequence[Any] | None]
) -> GgufVocabulary:
    def listed(name: str, kind: type, length: int | None) -> tuple[Any, ...]:
        array = pairs.get(stem + name)
        found = values(array) if isinstance(array, Array) else ()
        if found is None or not all(isinstance(value, kind) for value in found):
            raise InvalidModelFile(f"{path}: {stem}{name} is not a usable list of {kind.__name__}")
        if length is not None and len(found) not in (0, length):
            raise InvalidModelFile(f"{path}: {stem}{name} has {len(found)} values for {length} tokens")
        return tuple(found)

    def flag(name: str) -> bool | None:
        value = pairs.get(stem + name)
        return value if isinstance(value, bool) else None

    texts = listed("tokens", str, None)
    named = {
        key.removeprefix(stem).removesuffix("_token_id"): value
        for key, value in pairs.items()
        if key.startswith(stem) and key.endswith("_token_id") and isinstance(value, int)
    }
    for name, token_id in named.items():
        if not 0 <= token_id < len(texts):
            raise InvalidModelFile(f"{path}: {stem}{name}_token_id is {token_id}, but there are {len(texts)} tokens")
    return GgufVocabulary(
        model=str(pairs.get(f"{stem}model", "")),
        pre=str(pairs.get(f"{stem}pre", "")),
        texts=texts,
        kinds=listed("token_type", int, len(texts)),
        scores=listed("scores", float, len(texts)),
        merges=listed("merges", str, None),
        add_bos=flag("add_bos_token"),
        add_eos=flag("add_eos_token"),
        add_space_prefix=flag("add_space_prefix"),
        named=named,
    )

"""Text to token ids and back with a folder's ``tokenizer.json``. Safe for many threads: nothing in it changes."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Generator, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from corral.adapters.engine_kit.hf_text import component_types, divided_text
from corral.adapters.engine_kit.text_pieces import finished, gradual_ids
from corral.adapters.engine_kit.token_ids import checked_ids
from corral.adapters.engines.onnx_genai.folder import ModelFolder
from corral.adapters.formats.gguf.vocabulary import SPACE, bytes_of_byte_level
from corral.core.errors import InvalidModelFile
from corral.core.ports.tokens import Vocabulary
from corral.core.requests.prompts import Prompt

__all__ = ("FolderTokenizer", "tokenizer_of")

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class FolderTokenizer:
    """The `OpenTokenizer` port over the library `tokenizers`.

    `size` limits the ids: the model may have fewer or, as padding, more logits. `ends` are the ids that end an answer.
    """

    def __init__(self, folder: Path, *, size: int, ends: Collection[int]) -> None:
        """Raises `InvalidModelFile`."""
        try:
            self._special = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            self._plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            described = json.loads((folder / "tokenizer.json").read_bytes())
        except Exception as error:  # the library raises bare Exceptions
            raise InvalidModelFile(f"tokenizer.json cannot be read: {error}") from error
        self._plain.encode_special_tokens = True
        for tokenizer in (self._special, self._plain):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        self._begin = self._beginning(folder)
        self._vocabulary = self._read_vocabulary(described, size, ends)
        self._text_pieces = divided_text(self._special, described, self.text_tokens)

    @property
    def size(self) -> int:
        return len(self._vocabulary.pieces)

    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        return [tuple(self.tokens(prompt)) for prompt in prompts]

    def encode_gradually(
        self, prompt: Prompt, *, most: int | None = None, cut: bool = False
    ) -> Generator[None, None, tuple[int, ...]]:
        return tuple(self._begun((yield from gradual_ids(prompt, self._text_pieces, self.size, most, cut=cut))))

    @property
    def longest_token_bytes(self) -> int | None:
        """As `ModelInfo.longest_token_bytes`."""
        return self._text_pieces.sizes.longest

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join([self.piece(token_id) for token_id in checked_ids(ids, self.size)])

    def tokens(self, prompt: Prompt) -> list[int]:
        """The prompt's ids, with the BOS that every text of the model begins with, unless it is there already."""
        return self._begun(finished(gradual_ids(prompt, self._text_pieces, self.size, None, cut=False)))

    def _begun(self, ids: list[int]) -> list[int]:
        if ids[: len(self._begin)] != self._begin:
            ids[:0] = self._begin
        return ids

    def text_tokens(self, text: str, *, parse_special: bool = False) -> list[int]:
        """The ids of a text, with nothing added. Control tokens in it stay text unless `parse_special`."""
        if not text:
            return []
        tokenizer = self._special if parse_special else self._plain
        # Unlike `encode`, this releases the GIL, so that heartbeats continue during a long text.
        return list(tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def piece(self, token_id: int) -> bytes:
        """The token's bytes, with control tokens spelled out."""
        return self._vocabulary.pieces[token_id]

    def control_id(self, text: str) -> int | None:
        """The id of the control token with this text; None if there is none."""
        token_id: int | None = self._special.token_to_id(text)
        return token_id if token_id in self._vocabulary.control else None

    def _beginning(self, folder: Path) -> list[int]:
        """The ids that the post-processor puts first, or the BOS that ``tokenizer_config.json`` asks for."""
        bare = self._special.encode("a", add_special_tokens=False).ids
        whole = self._special.encode("a").ids
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare and start:
                return list(whole[:start])
        try:
            config = json.loads((folder / "tokenizer_config.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            return []
        bos = config.get("bos_token") if isinstance(config, dict) and config.get("add_bos_token") is True else None
        text = bos.get("content") if isinstance(bos, dict) else bos
        token_id = self._special.token_to_id(text) if isinstance(text, str) else None
        return [] if token_id is None else [token_id]

    def _read_vocabulary(self, described: Any, size: int, ends: Collection[int]) -> Vocabulary:
        added = self._special.get_added_tokens_decoder()
        by_id = {token_id: text for text, token_id in self._special.get_vocab(with_added_tokens=True).items()}
        byte_level = "ByteLevel" in component_types(described, "pre_tokenizer", "decoder")
        pieces = []
        for token_id in range(min(size, max(by_id, default=-1) + 1)):
            text = by_id.get(token_id, "")
            if token_id in added:
                pieces.append(text.encode())
            elif byte_level:
                pieces.append(bytes_of_byte_level(text))
            else:
                byte = _BYTE.fullmatch(text)
                pieces.append(bytes([int(byte[1], 16)]) if byte else text.replace(SPACE, " ").encode())
        return Vocabulary(
            pieces=tuple(pieces),
            control=frozenset(
                token_id for token_id, token in added.items() if token.special and token_id < len(pieces)
            ),
            ends=frozenset(token_id for token_id in ends if 0 <= token_id < len(pieces)),
        )


def tokenizer_of(folder: ModelFolder) -> FolderTokenizer:
    """The tokenizer of a model folder. Raises `InvalidModelFile`."""
    return FolderTokenizer(folder.path, size=folder.vocabulary_size, ends=folder.ends)

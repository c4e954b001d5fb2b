"""Tokens of a model with real weights, before it is loaded and after."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from corral import Corral

MODEL = "shallow"
CHAT = [{"role": "user", "content": "Où est <|im_end|> le café 🐎?"}]
TEXT = "Hello wörld, 1,234.50 €\n\n\tdef f(x): return x ** 2 <|im_end|>"


@pytest.mark.native
def test_weights_are_not_read_for_tokens(shallow: Callable[[str], Path], tmp_path: Path) -> None:
    """The process that tokenizes has not even mapped the file, and says what the loaded model says."""
    with Corral(models=tmp_path, config="", engine="llama-cpp", runner="process") as corral:
        corral.import_model(shallow("Q4_1"), name=MODEL)
        others = _runners()
        chat = corral.tokenize(MODEL, CHAT, with_pieces=True)
        text = corral.tokenize(MODEL, TEXT, with_pieces=True)
        assert corral.loaded() == []
        if sys.platform == "linux":
            [maps] = [(child / "maps").read_text() for child in _runners() - others]
            assert "libllama" in maps
            assert str(tmp_path) not in maps
        assert text.pieces is not None
        assert text.pieces[-1] == b"<|im_end|>"
        assert b"".join(text.pieces).decode() == TEXT == corral.detokenize(MODEL, text.ids)
        assert chat.pieces is not None
        assert chat.pieces.count(b"<|im_end|>") == 2, "that of the system text and that of the user, not what was typed"
        answer = corral.chat(MODEL, CHAT, options={"num_predict": 1, "num_ctx": 128, "num_parallel": 1})
        assert answer.usage.prompt_tokens == len(chat.ids)
        assert corral.tokenize(MODEL, CHAT, with_pieces=True) == chat
        assert corral.tokenize(MODEL, TEXT, with_pieces=True) == text


def _runners() -> set[Path]:
    """The folders in ``/proc`` of this process's children that run models."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"corral.adapters.runners.child" in (folder / "cmdline").read_bytes():
                found.add(folder)
        except OSError:  # it has ended
            continue
    return found

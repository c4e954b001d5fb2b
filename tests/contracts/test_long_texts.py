"""Texts far longer than any context: tokenizing them must not stop the rest of the process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from corral.core.requests.prompts import TextPart

pytest.importorskip("tokenizers")
pytest.importorskip("onnxruntime_genai")

TEXT = "a b " * 300_000


def tokenizers(smollm2_onnx: Path, minilm_int8: Path) -> dict[str, Any]:
    from corral.adapters.engines.onnx_embeddings.tokenizer import EncoderTokenizer
    from corral.adapters.engines.onnx_genai.tokenizer import FolderTokenizer

    return {
        "onnx-genai": FolderTokenizer(smollm2_onnx, size=49152, ends={2}),
        "onnx-embeddings": EncoderTokenizer(minilm_int8 / "tokenizer.json", None),
    }


@pytest.mark.parametrize("engine", ["onnx-genai", "onnx-embeddings"])
def test_other_threads_run_meanwhile(smollm2_onnx: Path, minilm_int8: Path, engine: str) -> None:
    """Other threads still run while a long text is tokenized, so that the process is not taken for one that hangs."""
    tokenizer = tokenizers(smollm2_onnx, minilm_int8)[engine]
    done, ticks = threading.Event(), [0]

    def tick() -> None:
        while not done.wait(0.001):
            ticks[0] += 1

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        [ids] = tokenizer.encode([(TextPart(text=TEXT),)])
    finally:
        done.set()
        thread.join()
    assert len(ids) >= 600_000
    assert ticks[0] > 20  # of some hundred; none at all but at its edges where the lock is held

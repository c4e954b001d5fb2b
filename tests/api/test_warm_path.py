"""What a chat with a loaded model costs before its first token, counted in a whole server with a model's process."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from corral.adapters.runners.calls import TokenizerCalls
from corral.adapters.runners.frame_link import FrameLink

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the process runner is for POSIX systems")

MESSAGES = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "Why is the sky blue?"},
    {"role": "assistant", "content": "Because air scatters blue light."},
    {"role": "user", "content": "And at sunset <|im_end|>?"},
]


def counting(monkeypatch: pytest.MonkeyPatch, root: Path) -> Counter[str]:
    """Counts this process's slow operations from now on: store accesses, hashes, and frames to the child."""
    counts: Counter[str] = Counter()

    def count(owner: Any, name: str, kind: str, applies: Callable[..., bool] = lambda *_: True) -> None:
        original = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            counts[kind] += applies(*arguments)
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, counted)

    def in_store(path: Any = ".", *_: object) -> bool:
        return not isinstance(path, int) and Path(os.fsdecode(path)).is_relative_to(root)

    for name in ("stat", "lstat"):
        count(os, name, "stat", in_store)
    for name in ("scandir", "listdir"):
        count(os, name, "listing", in_store)
    count(os, "open", "open", in_store)
    for name in ("sha256", "new"):
        count(hashlib, name, "hash")
    count(FrameLink, "write", "frame")
    for name in ("tokenize", "detokenize"):
        count(TokenizerCalls, name, "call")
    return counts


@pytest.mark.parametrize("body", [{}, {"options": {"temperature": 0, "num_ctx": 2048, "stop": ["\n"]}}])
def test_a_warm_chat_is_one_frame(
    start_server: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any]
) -> None:
    """Until its first token there is one frame to the child, one stat in the store, and no listing, file or hash."""
    root = tmp_path / "models"
    chat = {"model": "other", "messages": MESSAGES, **body}
    engine = {"answer": "the quick answer", "step_delay_s": 0.01}
    with start_server(engine, root=root, runner="process") as server, httpx.Client(base_url=server.url) as client:
        client.post("/api/chat", json=chat, timeout=60).raise_for_status()
        time.sleep(0.2)  # younger manifests are read again: they may still be written
        client.post("/api/chat", json=chat, timeout=60).raise_for_status()
        with monkeypatch.context() as patch:
            counts = counting(patch, root)
            with client.stream("POST", "/api/chat", json=chat, timeout=60) as answer:
                lines = answer.iter_lines()
                line = next(lines)
                before_first_token = +counts
        assert '"done":false' in line
    assert before_first_token == {"frame": 1, "stat": 1}


def test_what_is_counted_is_seen(
    start_server: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat that is not warm does read the manifest, and sends the child more than one frame."""
    root = tmp_path / "models"
    chat = {"model": "other", "messages": MESSAGES}
    with start_server(root=root, runner="process") as server, httpx.Client(base_url=server.url) as client:
        counts = counting(monkeypatch, root)
        client.post("/api/chat", json=chat, timeout=60).raise_for_status()
        monkeypatch.undo()
    assert counts["stat"] > 1
    assert counts["frame"] > 1
    assert counts["listing"]
    assert counts["hash"]

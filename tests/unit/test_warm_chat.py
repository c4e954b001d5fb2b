"""What a chat costs the server once its model is loaded: one frame to the model's process, and hardly anything else."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from corral import AsyncCorral
from corral.adapters.runners.frames import Add, Load, encode
from corral.adapters.system.local_disk import on_local_disk
from corral.core.requests.calls import ChatCall, GenerateCall
from corral.core.requests.messages import Message
from corral.core.requests.outputs import Delta
from corral.plugins.testing.gguf import gguf_bytes
from tests.unit.test_model_view import Touched

_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def _age(models: Path) -> None:
    """Makes manifests look as if they had existed for a while: one that was just written is read twice."""
    for manifest in (models / "manifests").rglob("*"):
        os.utime(manifest, (1_700_000_000, 1_700_000_000))


@pytest.mark.parametrize("task", ["chat", "generate"])
def test_a_warm_chat_is_one_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    """Before its first token: one look at the manifest and one frame to the child; no earlier call to the model.

    A typed look-alike of a control token makes no difference.
    """
    weights = tmp_path / "small.gguf"
    weights.write_bytes(gguf_bytes({"general.architecture": "llama", "tokenizer.chat_template": _TEMPLATE}))
    call: ChatCall | GenerateCall = GenerateCall(model="small:q4", prompt="Hi <b> <|im_end|>")
    if task == "chat":
        call = ChatCall(model="small:q4", messages=(Message(role="user", content="Hi <b> <|im_end|>"),))
    frames: list[Any] = []

    def counted(frame: Any) -> bytes:
        frames.append(frame)
        return encode(frame)

    monkeypatch.setattr("corral.adapters.runners.parent_link.encode", counted)

    async def scenario() -> None:
        settings = {"engines.fake.answer": "Hello there"}
        async with AsyncCorral(
            models=str(tmp_path / "models"), config="", engine="fake", runner="process", settings=settings
        ) as corral:
            await corral.import_model(weights, name="small:q4")
            _age(tmp_path / "models")
            inference = (await corral.runtime()).inference
            touched = Touched(monkeypatch)

            async def answer() -> list[type]:
                """The frames that went down before the first token."""
                frames.clear()
                generation = await (inference.chat(call) if isinstance(call, ChatCall) else inference.generate(call))
                async with generation:
                    async for output in generation:
                        if isinstance(output, Delta):
                            return [type(frame) for frame in frames]
                raise AssertionError("no answer")

            hops = {} if on_local_disk(tmp_path) else {"hop": 1}
            assert await answer() == [Load, Add]
            assert await answer() == [Add]
            assert await touched.during(answer()) == {"stat": 1} | hops

    asyncio.run(scenario())

"""A fake engine whose answer depends on the prompt."""

from __future__ import annotations

from typing import Any

import msgspec

from corral.adapters.engines.fake.engine import FakeEngine
from corral.adapters.engines.fake.options import FakeLoadOptions
from corral.adapters.engines.fake.spec import SPEC
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.engines import EngineSpec, LoadRequest

__all__ = ("SCRIPTED", "ScriptedOptions", "load")


class ScriptedOptions(FakeLoadOptions, frozen=True, kw_only=True):
    """`script`: what is answered to prompts in which a text occurs; the last of those counts."""

    script: tuple[tuple[str, str], ...] = ()


class _ScriptedEngine(FakeEngine):
    def __init__(self, options: ScriptedOptions) -> None:
        super().__init__(options)
        self._script = options.script

    def _logits(self, sequence: Any) -> dict[int, float]:
        prompt = self.tokenizer.decode(sequence.ids[: sequence.prompt_tokens]).decode(errors="replace")
        answer = [answer for text, answer in self._script if text in prompt][-1]
        self._answer = self.tokenizer.text_ids(answer)
        return super()._logits(sequence)


def load(request: LoadRequest, on_progress: OnLoadProgress) -> FakeEngine:
    on_progress(1.0)
    return _ScriptedEngine(msgspec.convert(request.load_options, ScriptedOptions))


SCRIPTED: EngineSpec = msgspec.structs.replace(
    SPEC, load="tests.api.scripted_engine:load", load_options=ScriptedOptions, runners=("thread",)
)

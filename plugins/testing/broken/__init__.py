"""Models that break one promise each, and a sound one: they prove that `RunningModelContract` notices.

`SPEC` is their engine: the load option `fault` names the test that must fail; None gives the sound model.
"""

from __future__ import annotations

import msgspec

from corral.adapters.engines.fake import SPEC as FAKE
from corral.adapters.runners.thread import ThreadRunner
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.engines import EngineSpec, LoadRequest, Match
from corral.plugins.testing.broken.company import COMPANY
from corral.plugins.testing.broken.scores import SCORES
from corral.plugins.testing.broken.sound import SoundModel
from corral.plugins.testing.broken.vectors import VECTORS
from corral.plugins.testing.broken.words import WORDS

__all__ = ("BROKEN", "SPEC", "BareRunner", "SoundModel", "load")

BROKEN = {model.breaks: model for model in (*WORDS, *COMPANY, *VECTORS, *SCORES)}
"""The broken models, by the test that they fail."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    fault: str | None = None


async def load(request: LoadRequest, on_progress: OnLoadProgress) -> SoundModel:
    """The model with this fault, on top of the fake engine in a thread."""
    options = msgspec.convert(request.load_options, Options)
    model = SoundModel if options.fault is None else BROKEN[options.fault]
    inner = LoadRequest(model=request.model, files=(), load_options={"num_ctx": 512})
    return model(await ThreadRunner().load(FAKE, inner, on_progress))


class BareRunner:
    """A `Runner` of models that are loaded in the event loop; it adds nothing that would hide a fault."""

    name = "event_loop"

    async def load(self, spec: EngineSpec, request: LoadRequest, on_progress: OnLoadProgress) -> SoundModel:
        return await load(request, on_progress)


SPEC = EngineSpec(
    name="broken",
    summary="a model that breaks one promise, for the tests of the conformance kit",
    form="running",
    load="corral.plugins.testing.broken:load",
    vocabulary="corral.adapters.engines.fake.spec:vocabulary",
    match=lambda model, metadata, options: Match(score=0, reason="only for tests of the kit"),
    estimate=lambda record, metadata, options: {},
    runners=("event_loop",),
    tasks=frozenset({"completion", "chat", "embedding", "rerank"}),
    load_options=Options,
)

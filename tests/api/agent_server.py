"""A server with a model that calls a tool three times, one city after the other, and then tells what it has learnt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from corral.adapters.engines.fake import SPEC
from corral.adapters.engines.fake.options import FakeLoadOptions
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.engines import LoadRequest
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes
from tests.api.conftest import LiveServer, running_server
from tests.api.scripted_engine import Script, ScriptedEngine

__all__ = ("AGENT", "CITIES", "LEARNT", "agent_server")

AGENT = "agent"
CITIES = ["Paris", "Bonn", "Zürich"]
LEARNT = "I was told: sunny in Paris, sunny in Bonn, sunny in Zürich"
"""What it says in the end if the tool ``weather`` answers "sunny in CITY" each time."""

_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}{{ tools | tojson if tools }}"
    "{% if false %}<tool_call></tool_call>{% endif %}"
)


class AgentEngine(ScriptedEngine):
    """Answers by what the prompt has in it: tools, and their results."""

    def script(self, prompt: str) -> Script:
        results = re.findall(r"tool=([^;]*);", prompt)
        said = f"I was told: {', '.join(results)}" if results else "Nobody told me anything."
        if '"weather"' in prompt and len(results) < len(CITIES):
            call = json.dumps({"name": "weather", "arguments": {"city": CITIES[len(results)]}}, ensure_ascii=False)
            said = f"Let me see.\n<tool_call>\n{call}\n</tool_call>"
        data = said.encode()
        return Script([data[at : at + 5] for at in range(0, len(data), 5)])


def load(request: LoadRequest, on_progress: OnLoadProgress) -> AgentEngine:
    return AgentEngine(msgspec.convert(request.load_options, FakeLoadOptions))


_SPEC = msgspec.structs.replace(SPEC, load="tests.api.agent_server:load")


@contextmanager
def agent_server() -> Iterator[LiveServer]:
    """The server, which has the model under the name `AGENT`."""
    weights = gguf_bytes({**SMALL_MODEL, "llama.context_length": 4096, "tokenizer.chat_template": _TEMPLATE})
    with running_server(engine={}, engines=(_SPEC,)) as server:
        server.call(lambda _: server.world.add(AGENT, data=weights))
        yield server

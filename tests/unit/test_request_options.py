"""A request option is defined in a few places, and everything else follows from those."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import corral
from corral.core.generation.assembling import generate_request
from corral.core.generation.prompting import completion_of
from corral.core.models.digests import digest_of
from corral.core.models.model import StoredModel
from corral.core.models.names import parse_name
from corral.core.ports.chat import RenderedChat
from corral.core.requests.caller import Caller
from corral.core.requests.calls import GenerateCall
from corral.core.requests.options import OPTIONS, ResolvedOptions, resolve_options
from corral.core.requests.principal import Principal
from corral.core.requests.requests import ChatRequest, Constraint, SamplingParams

ROOT = Path(corral.__file__).parent
PARTS = ("core", "adapters", "plugins", "api")
STATED_IN = {"core/requests/requests.py", "core/requests/options.py"}
LIMITED_IN = {"core/requests/option_values.py"}
TRANSLATED_IN = {"api/http/openai/bodies.py", "api/http/openai/options.py"}  # fields of OpenAI's own by these names
IMPLEMENTED_IN = ("adapters/engine_kit/sampling/", "adapters/engines/")
# Names that stand for other things as well, such as a stop string of a template.
WORDS = {"stop", "seed", "temperature", "num_predict", "ignore_eos", "logit_bias", "top_k", "top_p"}


@pytest.mark.parametrize("name", sorted({row.name for row in OPTIONS.values() if row.scope == "sampling"} - WORDS))
def test_two_files_state_a_sampling_option(name: str) -> None:
    """The places that define an option: its field and its row in the table. Besides these, only engines' samplers, and
    perhaps a limit, name it, and APIs that have a field of the same name.
    """
    files = [file for part in PARTS for file in (ROOT / part).rglob("*.py")]
    found = {file.relative_to(ROOT).as_posix() for file in files if re.search(rf"\b{name}\b", file.read_text("utf-8"))}
    assert {file for file in found if not file.startswith(IMPLEMENTED_IN)} - LIMITED_IN - TRANSLATED_IN == STATED_IN


def test_the_table_and_the_fields_agree() -> None:
    """Every sampling option is a field, every field is an option, and both have the same default."""
    rows = {row.name: row for row in OPTIONS.values() if row.scope == "sampling"}
    assert rows.keys() == set(SamplingParams.__struct_fields__)
    for name, row in rows.items():
        assert getattr(resolve_options({name: row.default}).sampling, name) == getattr(SamplingParams(), name), name


def test_what_a_call_says_reaches_the_model() -> None:
    """Each field that calls and requests have in common is passed on, through a chat template too."""
    said: dict[str, Any] = {
        "caller": Caller(principal=Principal(name="polly")),
        "think": False,
        "logprobs": 3,
        "constraint": Constraint(kind="regex", source="x"),
        "return_token_ids": True,
        "earlier_ids": (1, 2),
        "suffix": "x",
        "template": "{{ .Prompt }}",
    }
    record = StoredModel(name=parse_name("m"), digest=digest_of(b""), size_bytes=0, modified_at=0.0, format="gguf")
    asked = GenerateCall(model="m", prompt="x", **said)
    chat = generate_request(record, asked, ResolvedOptions())
    raw = generate_request(record, msgspec.structs.replace(asked, raw=True), ResolvedOptions())
    assert isinstance(chat, ChatRequest)
    for request in (chat, raw, completion_of(chat, RenderedChat(prompt=()), truncate=False)):
        shared = set(asked.__struct_fields__) & set(request.__struct_fields__) - {"prompt"}
        assert shared
        assert {name: getattr(request, name) for name in shared} == {name: said[name] for name in shared}

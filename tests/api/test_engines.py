"""Engines over HTTP: chosen by an option, not installed, or unable to run the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from corral.adapters.engines.fake import SPEC
from corral.core.specs.engines import Match
from corral.core.wording.pip_lines import pip_line


def test_a_request_names_its_engine(client: httpx.Client) -> None:
    """The option `engine` chooses the engine; an unknown name is an error that lists the engines."""
    body = {"model": "smol:q4", "prompt": "hi", "stream": False}
    assert client.post("/api/generate", json=body | {"options": {"engine": "fake"}}).status_code == 200
    refused = client.post("/api/generate", json=body | {"options": {"engine": "steam"}})
    assert refused.status_code == 400
    assert refused.json() == {"error": "there is no engine 'steam'; known engines: fake"}


def test_options_that_the_engine_ignores_are_told(client: httpx.Client) -> None:
    """The last chunk names the ignored options."""
    body = {"model": "smol:q4", "prompt": "hi", "stream": False, "options": {"mirostat": 2, "num_predict": 2}}
    assert client.post("/api/generate", json=body).json()["ignored_options"] == ["mirostat"]


def test_options_without_effect_are_told_by_every_route(client: httpx.Client) -> None:
    """Unknown options and load options that the engine does not have are ignored, and the request is answered."""
    common = {"model": "smol:q4", "stream": False, "options": {"temprature": 1, "num_gpu": 0, "num_predict": 2}}
    asked: tuple[dict[str, object], ...] = (
        {"prompt": "hi"},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"input": "hi"},
    )
    for route, body in zip(("generate", "chat", "embed"), asked, strict=True):
        reply = client.post(f"/api/{route}", json=common | body)
        assert (reply.status_code, reply.json().get("ignored_options")) == (200, ["temprature", "num_gpu"]), route


@pytest.mark.parametrize("option", [None, "fake"])
def test_without_an_engine_the_answer_is_501(start_server: Callable[..., Any], option: str | None) -> None:
    """Whether it was chosen automatically or by name, the error ends with the command to paste."""
    spec = msgspec.structs.replace(
        SPEC,
        module="corral_no_such_module",
        install_hint="pip install 'corral[fake]'",
        match=lambda model, metadata, options: Match(score=100, reason="takes it"),
    )
    with start_server(engines=[spec]) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        options = {} if option is None else {"engine": option}
        answer = client.post("/api/generate", json={"model": "smol:q4", "prompt": "hi", "options": options})
        assert answer.status_code == 501
        assert answer.json()["error"].endswith(f"; {pip_line('corral[fake]')}")

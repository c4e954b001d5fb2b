"""The spec of the upstream engine: its settings, and that it runs models on other servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from corral.core.models.model import Model, ModelMetadata, StoredModel
from corral.core.specs.engines import EngineSpec, Match

__all__ = ("APIS", "SPEC", "HostOptions", "UpstreamOptions")

APIS = ("openai", "vllm", "sglang", "llama-server", "ollama", "corral")
"""The APIs that a server may have: OpenAI's, three extensions of it, Ollama's, and Corral's extension of that."""


class HostOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[engines.upstream.hosts."ADDRESS"]``: what is sent to this address only."""

    key: Annotated[str | None, Meta(description="Sent as a bearer token.", extra={"secret": True})] = None
    key_env: Annotated[str | None, Meta(description="The environment variable that holds the key.")] = None
    headers: Annotated[
        dict[str, str], Meta(description="Additional headers for every request.", extra={"secret": True})
    ] = {}

    def __repr__(self) -> str:
        return f"HostOptions(key_env={self.key_env!r}, …)"  # keeps keys out of logs and tracebacks


class UpstreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How upstreams are accessed. Times are in seconds."""

    connect_timeout_s: Annotated[float, Meta(description="Longest wait for a connection.")] = 5.0
    silence_timeout_s: Annotated[
        float, Meta(description="Longest wait for the next part of an answer; the first token may take a while.")
    ] = 600.0
    rest_s: Annotated[float, Meta(description="How long an address that failed is tried only after the others.")] = 10.0
    max_connections: Annotated[
        int, Meta(description="Maximum connections, and so concurrent requests, to one address.", ge=1)
    ] = 128
    max_answer_bytes: Annotated[
        int, Meta(description="The longest answer to one request; a longer one is cut off.", ge=1024)
    ] = 8 * 1024 * 1024
    trust_env: Annotated[bool, Meta(description="Use the proxies from `HTTP_PROXY` and similar variables.")] = False
    hosts: Annotated[
        dict[str, HostOptions], Meta(description="Keys and headers by address: see docs/upstream.md.")
    ] = {}


def _match(model: Model, metadata: ModelMetadata | None, options: UpstreamOptions) -> Match:
    if model.remote is None:
        return Match(score=0, reason="runs models on other servers; corral upstream adds one")
    return Match(score=100, reason=f"runs behind {model.remote.host}")


def _estimate(record: StoredModel, metadata: ModelMetadata | None, options: UpstreamOptions) -> Mapping[str, int]:
    return {}


SPEC = EngineSpec(
    name="upstream",
    summary="models on another server: vLLM, Ray Serve LLM, SGLang, llama-server, Ollama, Corral",
    form="running",
    load="corral.adapters.engines.upstream.loader:load",
    match=_match,
    estimate=_estimate,
    runners=("event_loop",),
    tasks=frozenset({"chat", "completion", "embedding"}),
    takes="models that `corral upstream` added",
    load_options=UpstreamOptions,
    module="httpx",
    install_hint="pip install 'corral[upstream]'",
)

"""Opens the store of responses that the settings ``[responses]`` describe."""

from __future__ import annotations

from corral.adapters.stores.memory_responses import MemoryResponses
from corral.adapters.stores.response_files import ResponseFiles
from corral.core.ports.responses import ResponseStore
from corral.plugins.settings.responses import ResponsesSettings, responses_folder

__all__ = ("response_store",)


def response_store(settings: ResponsesSettings) -> ResponseStore | None:
    """None if no responses are kept. Nothing is read or written yet."""
    if settings.store == "off":
        return None
    count, size_bytes, ttl_s = settings.max_count, settings.max_bytes, settings.ttl.limit_s
    if settings.store == "memory":
        return MemoryResponses(max_count=count, max_bytes=size_bytes, ttl_s=ttl_s)
    return ResponseFiles(responses_folder(settings), max_count=count, max_bytes=size_bytes, ttl_s=ttl_s)

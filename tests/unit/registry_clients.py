"""Runs a client of registries for one test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from corral.adapters.registries.oci.registry import OciRegistry

__all__ = ("run",)


def run(client: OciRegistry, work: Callable[[OciRegistry], Awaitable[Any]]) -> Any:
    """Does the work, and closes the client."""

    async def whole() -> Any:
        try:
            return await work(client)
        finally:
            await client.aclose()

    return asyncio.run(whole())

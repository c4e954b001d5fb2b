"""What can be set about the responses that clients of OpenAI's API may ask for again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from corral.plugins.settings.types import Duration

__all__ = ("ResponsesSettings", "responses_folder")


class ResponsesSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[responses]``: what the server keeps of the answers of ``/v1/responses``, unless a request says not to."""

    store: Annotated[
        Literal["files", "memory", "off"],
        Meta(
            description="Where responses are kept: `files` survive a restart, `memory` ends with the server, `off` "
            "keeps none."
        ),
    ] = "files"
    folder: Annotated[
        str,
        Meta(description="The folder of the files; if empty, `responses` beside Corral's other private state."),
    ] = ""
    ttl: Annotated[
        Duration, Meta(description="How long a response is kept after it was last used; 0 means no limit.")
    ] = Duration("720h")
    max_count: Annotated[
        int, Meta(ge=1, description="The largest number of responses; those used least recently leave first.")
    ] = 10_000
    max_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            description="The size of all responses together, each with the conversation that it belongs to. A larger "
            "one is not kept.",
        ),
    ] = 256 * 1024 * 1024


def responses_folder(settings: ResponsesSettings, environment: Mapping[str, str] = os.environ) -> Path:
    """By default ``$XDG_STATE_HOME/corral/responses``."""
    if settings.folder:
        return Path(settings.folder).expanduser()
    home = Path(environment.get("HOME") or Path.home())
    return Path(environment.get("XDG_STATE_HOME") or home / ".local" / "state") / "corral" / "responses"

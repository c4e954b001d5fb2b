"""What can be set about keys: where their file is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ("KeysSettings", "keys_path")


class KeysSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[authenticators.keys]``"""

    file: Annotated[
        str,
        Meta(description="The file of the server's keys; if empty, `keys.json` beside Corral's other private files."),
    ] = ""


def keys_path(settings: KeysSettings, environment: Mapping[str, str] = os.environ) -> Path:
    """The file that ``corral keys`` writes: by default ``$XDG_CONFIG_HOME/corral/keys.json``."""
    if settings.file:
        return Path(settings.file).expanduser()
    home = Path(environment.get("HOME") or Path.home())
    return Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "corral" / "keys.json"

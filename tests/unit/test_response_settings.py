"""Where the settings say that responses are kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from corral.adapters.stores.memory_responses import MemoryResponses
from corral.core.errors import SettingsError
from corral.core.ports.responses import KeptResponse
from corral.plugins.response_store import response_store
from corral.plugins.settings.reading import read_layers
from corral.plugins.settings.responses import ResponsesSettings, responses_folder


def settings(**environment: str) -> ResponsesSettings:
    return read_layers("", environment=environment).decode().responses


def test_they_are_files_unless_set() -> None:
    """In the user's own folder for state, or wherever the settings say; a variable turns them off."""
    assert settings().store == "files"
    assert responses_folder(ResponsesSettings(), {"HOME": "/h"}) == Path("/h/.local/state/corral/responses")
    assert responses_folder(ResponsesSettings(), {"XDG_STATE_HOME": "/s"}) == Path("/s/corral/responses")
    assert responses_folder(ResponsesSettings(folder="~/r")) == Path.home() / "r"
    assert isinstance(response_store(settings(CORRAL_RESPONSES="memory")), MemoryResponses)
    assert response_store(settings(CORRAL_RESPONSES="off")) is None
    with pytest.raises(SettingsError, match=r"responses\.store"):
        settings(CORRAL_RESPONSES="cloud")


def test_nothing_is_written_before_there_is_a_response(tmp_path: Path) -> None:
    """A server that answers none leaves no folder behind."""
    store = response_store(ResponsesSettings(folder=str(tmp_path / "r")))
    assert store is not None
    assert asyncio.run(store.get("ada", "1")) is None
    assert list(tmp_path.iterdir()) == []
    asyncio.run(store.put(KeptResponse(id="1", owner="ada", reply=b"{}", input_items=b"[]")))
    assert [file.name for file in tmp_path.iterdir()] == ["r"]

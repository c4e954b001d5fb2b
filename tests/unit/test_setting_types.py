"""Invalid addresses: an error in Corral's settings, the default in Ollama's variables."""

from __future__ import annotations

import pytest

from corral.core.errors import SettingsError
from corral.plugins.settings.environment import read_environment
from corral.plugins.settings.reading import read_layers
from corral.plugins.settings.types import Address

BAD = ("h:notaport", "h:70000", "a b", "/run/corral.sock", "unix:", "ftp://h")


@pytest.mark.parametrize(
    "text", ["h", ":99", "1.2.3.4:99", "https://h/api", "[::1]:99", "::1", "fe80::1%eth0", "unix:/s"]
)
def test_an_address_has_no_problem(text: str) -> None:
    """Every form that the docs name."""
    assert Address(text).problem is None


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_address_is_refused(text: str) -> None:
    """A server never listens anywhere unintended: the error names the text and where it was set."""
    for layers in (read_layers("", environment={"CORRAL_HOST": text}), read_layers("", flags={"server.host": text})):
        with pytest.raises(SettingsError, match="not an address") as caught:
            layers.decode()
        assert text in caught.value.message
        assert caught.value.remedy in ("it was set by CORRAL_HOST", "it was set by flag")


@pytest.mark.parametrize("text", BAD[:2])
def test_ollamas_variable_is_read_by_its_rules(text: str) -> None:
    """An invalid port falls back to the default."""
    assert read_environment({"OLLAMA_HOST": text})["server", "host"].value == "http://h:11434"


def test_a_text_that_a_setting_does_not_take() -> None:
    """The remedy says where it was set, and lists the allowed values."""
    with pytest.raises(SettingsError, match=r"log\.level") as caught:
        read_layers("", environment={"CORRAL_LOG_LEVEL": "loud"}).decode()
    assert caught.value.remedy == "it was set by CORRAL_LOG_LEVEL; choose one of trace, debug, info, warning, error"

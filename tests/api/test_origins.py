"""Browser origins and host names are accepted by Ollama's rules."""

from __future__ import annotations

import pytest

from corral.api.http.origins import OriginRules, host_is_local, is_loopback


@pytest.mark.parametrize(
    "origin",
    ["http://localhost", "https://localhost:3000", "http://127.0.0.1:8080", "app://x", "tauri://localhost", "file://"],
)
def test_local_origins_are_always_allowed(origin: str) -> None:
    """Pages of this machine and of desktop applications need no setting."""
    assert OriginRules().allows(origin)


@pytest.mark.parametrize(
    "origin", ["http://example.com", "http://localhost.example.com", "https://127.0.0.1.nip.io", "null"]
)
def test_other_origins_are_not(origin: str) -> None:
    """The page of another site is refused, however much its name looks like a local one."""
    assert not OriginRules().allows(origin)


def test_origins_of_the_settings_are_allowed() -> None:
    """A setting adds exact origins, patterns with one star, or everything."""
    rules = OriginRules(["https://example.com", "chrome-extension://*"])
    assert rules.allows("https://example.com")
    assert rules.allows("chrome-extension://abc")
    assert not rules.allows("https://example.org")
    assert OriginRules(["*"]).allows("https://anything")


@pytest.mark.parametrize(
    "host",
    ["", "localhost", "LOCALHOST:11434", "127.0.0.1:11434", "[::1]:11434", "10.1.2.3", "192.168.0.9:80", "0.0.0.0",
     "nas.local", "box.internal:1", "a.localhost"],
)  # fmt: skip
def test_hosts_of_this_machine_and_network_are_local(host: str) -> None:
    """Host names that no public name server resolves are accepted, with or without a port."""
    assert host_is_local(host)


@pytest.mark.parametrize("host", ["example.com", "8.8.8.8", "localhost.example.com:11434", "local"])
def test_hosts_of_strangers_are_not(host: str) -> None:
    """A host name that anyone could point at this machine is refused."""
    assert not host_is_local(host)


def test_loopback_addresses_are_told() -> None:
    """Only addresses that others cannot reach count as loopback."""
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("example.com")

"""The section ``[server]`` of the settings, and the settings of the HTTP server that are made from it."""

from __future__ import annotations

import msgspec

from corral.api.cli.serve import http_settings
from corral.api.http.settings import HttpSettings
from corral.plugins.settings.schema import ServerSettings
from corral.plugins.settings.types import Address, Duration


def test_both_have_the_same_defaults() -> None:
    """A server without settings is the same, whether `corral serve` or a program starts it."""
    assert http_settings(ServerSettings()) == HttpSettings()


def test_every_setting_reaches_the_server() -> None:
    """No field of ``[server]`` is forgotten: each one changes what the server gets."""
    changed = ServerSettings(
        host=Address("10.1.2.3:99"),
        origins=("https://example.org",),
        max_body_bytes=1,
        max_head_bytes=2048,
        max_connections=3,
        head_timeout=Duration("4s"),
        body_timeout=Duration("5s"),
        idle_timeout=Duration("6s"),
        reader_timeout=Duration("0"),
        shutdown_grace=Duration("7s"),
    )
    for name in {*ServerSettings.__struct_fields__} - {"auth"}:  # whoever assembles the server chooses who asks
        one = msgspec.structs.replace(ServerSettings(), **{name: getattr(changed, name)})
        assert http_settings(one) != HttpSettings(), name


def test_a_port_replaces_that_of_the_address() -> None:
    """``--port`` keeps the host, an IPv6 one too, and means nothing to a socket file."""
    assert http_settings(ServerSettings(host=Address("[::1]:99")), 5).port == 5
    assert http_settings(ServerSettings(host=Address("[::1]:99")), 5).host == "::1"
    assert http_settings(ServerSettings(host=Address("unix:/run/corral")), 5).unix_socket == "/run/corral"

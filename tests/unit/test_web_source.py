"""Models at addresses: https://, http:// on this machine, and file://, through a catalog and real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.sources.web import WebSource
from corral.adapters.sources.web_settings import WebSourceSettings
from corral.adapters.stores.memory import MemoryBlobs, MemoryManifests
from corral.api.cli.targets import is_path, is_reference
from corral.core.catalog.catalog import ModelCatalog
from corral.core.catalog.transfer_policy import TransferPolicy
from corral.core.errors import CorralError, DigestMismatch, InvalidModelFile, InvalidRequest, NotFound, SourceError
from corral.core.models.digests import digest_of
from corral.plugins.testing.fake_web_server import FakeWebServer
from corral.plugins.testing.gguf import gguf_bytes

DATA = gguf_bytes() + bytes(range(256)) * 1000
NAME = "/models/Tiny.Q4_1.gguf"
POLICY = TransferPolicy(pause_s=0.0)


@pytest.fixture
def server() -> Iterator[FakeWebServer]:
    with FakeWebServer({NAME: DATA}) as server:
        yield server


class Shop:
    """A catalog of one user, whose home is `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.blobs = MemoryBlobs()
        self.manifests = MemoryManifests()
        self.settings = WebSourceSettings()
        self.policy = POLICY

    def catalog(self) -> ModelCatalog:
        environment = {"HOME": str(self.home), "DOCKER_CONFIG": str(self.home)}
        return ModelCatalog(
            manifests=self.manifests,
            blobs=self.blobs,
            local=self.blobs,
            formats=[OllamaManifestFormat()],
            readers=[GgufReader()],
            sources=[WebSource(scheme, self.settings, environment) for scheme in ("https", "http")],
            policy=self.policy,
        )

    def pull(self, reference: str, **more: Any) -> str:
        return asyncio.run(self.catalog().pull(reference, **more)).name.short

    def stored(self) -> list[bytes]:
        async def read() -> list[bytes]:
            return [
                b"".join([chunk async for chunk in self.blobs.read(info.digest)]) async for info in self.blobs.list()
            ]

        return asyncio.run(read())


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    with closing(shop.blobs):
        yield shop


def test_a_file_at_an_address_is_a_model(shop: Shop, server: FakeWebServer) -> None:
    """It is named after the file, and stored byte for byte; a query is part of the address, not of the name."""
    assert shop.pull(f"{server.url}{NAME}?signature=s3cret") == "tiny:q4_1"
    assert DATA in shop.stored()
    assert all(request.path.endswith("?signature=s3cret") for request in server.requests_of(NAME))


def test_what_broke_off_goes_on_where_it_stopped(shop: Shop, server: FakeWebServer) -> None:
    """After a cut, the rest is asked for, and the file is whole."""
    cuts(server, at=1000)
    shop.pull(f"{server.url}{NAME}")
    assert DATA in shop.stored()
    assert any(request.headers.get("range", "").startswith("bytes=1000-") for request in server.seen)


@pytest.mark.parametrize("told", [(), ("knows_ranges",), ("has_versions",)])
def test_large_files_come_in_parts(shop: Shop, server: FakeWebServer, told: tuple[str, ...]) -> None:
    """Several at a time, unless the server knows no ranges, or does not tell versions apart."""
    for quirk in told:
        setattr(server, quirk, False)
    shop.policy = TransferPolicy(part_bytes=50_000, pause_s=0.0)
    shop.pull(f"{server.url}{NAME}")
    assert DATA in shop.stored()
    parts = [request for request in server.seen if request.headers.get("range", "bytes=0-0") != "bytes=0-0"]
    assert (len(parts) == -(-len(DATA) // 50_000)) is (not told)


def test_two_versions_never_mix(shop: Shop, server: FakeWebServer) -> None:
    """If the file is another one after a cut, even one of the same size, the pull fails and nothing is stored."""
    cuts(server, at=1000, then=lambda: server.files.update({NAME: DATA[:-1] + b"!"}))
    with pytest.raises(SourceError, match="has changed"):
        shop.pull(f"{server.url}{NAME}")
    assert shop.stored() == []


def test_a_server_that_does_not_tell_versions_apart(shop: Shop, server: FakeWebServer) -> None:
    """Without a digest nothing is pieced together; with one, the digest proves that the pieces fit."""
    server.has_versions = False
    cuts(server, at=1000)
    with pytest.raises(SourceError, match="cannot be resumed"):
        shop.pull(f"{server.url}{NAME}")
    cuts(server, at=1000)
    digits = digest_of(DATA).removeprefix("sha256:")
    assert shop.pull(f"{server.url}{NAME}#sha256={digits.upper()}") == "tiny:q4_1"
    assert DATA in shop.stored()


def test_a_stated_digest_is_checked(shop: Shop, server: FakeWebServer) -> None:
    """A file with another digest is refused, and not kept."""
    with pytest.raises(DigestMismatch):
        shop.pull(f"{server.url}{NAME}#sha256={'0' * 64}")
    assert shop.stored() == []


def test_a_login_is_shown_to_its_server_alone(shop: Shop, server: FakeWebServer) -> None:
    """A server that demands a login gets the one that is kept for it; one that it redirects to does not."""
    shown = base64.b64encode(b"me:secret").decode()
    (shop.home / "config.json").write_text(json.dumps({"auths": {server.host: {"auth": shown}}}))
    with FakeWebServer({"/cdn": DATA}) as elsewhere:
        server.demand = f"Basic {shown}"
        server.redirect(NAME, f"{elsewhere.url}/cdn")
        assert shop.pull(f"{server.url}{NAME}") == "tiny:q4_1"
        assert any("authorization" in request.headers for request in server.seen)
        assert elsewhere.seen
        assert not any("authorization" in request.headers for request in elsewhere.seen)


def test_a_web_page_is_not_downloaded(shop: Shop, server: FakeWebServer) -> None:
    """The address of a page about a model gets an error that says so."""
    server.files["/owner/model"] = b"<html>"
    server.types["/owner/model"] = "text/html; charset=utf-8"
    with pytest.raises(SourceError, match="is a web page"):
        shop.pull(f"{server.url}/owner/model")


def test_a_file_that_is_no_model_is_not_kept(shop: Shop, server: FakeWebServer) -> None:
    """What no reader knows is refused after it has arrived."""
    server.files["/notes.txt"] = b"Once upon a time"
    with pytest.raises(InvalidModelFile):
        shop.pull(f"{server.url}/notes.txt")
    assert shop.stored() == []


def test_https_never_becomes_http(shop: Shop, server: FakeWebServer) -> None:
    """A server without TLS is not spoken to as if it had some, nor does a redirect give it up."""
    with pytest.raises(SourceError):
        shop.pull(f"https://{server.host}{NAME}")
    assert NAME not in {request.path for request in server.seen}


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("http://192.0.2.1/model.gguf", "without TLS"),
        ("https://me:secret@192.0.2.1/model.gguf", "must not contain a login"),
        ("https://192.0.2.1/", "not the address of a file"),
        ("https://192.0.2.1/a%2F..%2F", "not the address of a file"),
        ("https://192.0.2.1/a%00.gguf", "not the address of a file"),
        ("https://192.0.2.1/model.gguf#sha256=12", "no digest"),
        ("https://192.0.2.1/model.gguf#md5=12", "means nothing"),
        ("https:///model.gguf", "not an address"),
        ("https://[::1/model.gguf", "not an address"),
        ("https://-x/model.gguf", "not an address"),
    ],
)
def test_addresses_that_are_refused(shop: Shop, address: str, complaint: str) -> None:
    """Nothing is connected to; a login in an address is not repeated in the error."""
    with pytest.raises(InvalidRequest, match=complaint) as caught:
        shop.pull(address)
    assert "secret" not in str(caught.value)


def test_a_server_without_tls_may_be_allowed(shop: Shop, server: FakeWebServer) -> None:
    """One that is not known to be this machine is reached without TLS if `insecure` names it, with its port or not."""
    host = server.host.replace("127.0.0.1", "0.0.0.0")
    for insecure in ("0.0.0.0", host):
        shop.settings = WebSourceSettings(insecure=(insecure,))
        assert shop.pull(f"http://{host}{NAME}") == "tiny:q4_1"
    shop.settings = WebSourceSettings()
    with pytest.raises(InvalidRequest, match="without TLS"):
        shop.pull(f"http://{host}{NAME}")


def test_a_file_of_this_machine(shop: Shop, tmp_path: Path) -> None:
    """file:// imports a file, whose path may be percent-encoded, for the user of this machine alone."""
    path = tmp_path / "My Tiny.Q4_1.gguf"
    path.write_bytes(DATA)
    address = path.as_uri()
    assert "%20" in address
    assert shop.pull(address, local_files=True) == "my-tiny:q4_1"
    assert DATA in shop.stored()
    with pytest.raises(InvalidRequest, match="no file of the server's"):
        shop.pull(address)


@pytest.mark.parametrize(
    "address",
    ["file://", "file://relative.gguf", "file:relative.gguf", "file://elsewhere/x.gguf", "file:///x?y", "file:///%00"],
)
def test_addresses_of_no_file(shop: Shop, address: str) -> None:
    """Only absolute paths on this machine are read."""
    with pytest.raises(CorralError):
        shop.pull(address, local_files=True)


def test_a_file_that_is_not_there(shop: Shop, tmp_path: Path) -> None:
    """It is named in the error."""
    with pytest.raises(NotFound, match=r"absent\.gguf"):
        shop.pull((tmp_path / "absent.gguf").as_uri(), local_files=True)


def test_what_the_command_line_takes_for_an_address() -> None:
    """An address of a file is fetched, a file of this machine is imported; names with a scheme stay names."""
    assert is_reference("https://host/models/tiny.gguf?download=true")
    assert not is_reference("https://host/library/tiny:q4_1")
    assert is_path("file:///models/tiny.gguf")
    assert not is_reference("file:///models/tiny.gguf")


def cuts(server: FakeWebServer, *, at: int, then: Any = lambda: None) -> None:
    """The next answer from the file's beginning breaks off; `then` happens before anything else is asked."""

    def cut(connection: Any) -> None:
        asked = connection.headers.get("range", "bytes=0-")
        if asked == "bytes=0-0" or not asked.startswith("bytes=0-"):
            cuts(server, at=at, then=then)
            connection.answer_as_usual()
            return
        connection.cut_after = at
        connection.answer_as_usual()
        then()

    server.fault("GET", NAME, cut)

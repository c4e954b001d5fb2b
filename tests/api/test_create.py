"""``/api/create``: Ollama's events, layers, texts and statuses, from models and from uploaded files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from click.testing import CliRunner

from corral.api.cli import main
from corral.core.errors import SourceUnavailable
from corral.core.models.digests import Digest, digest_of
from corral.core.models.names import parse_name
from corral.core.models.references import Reference, parse_reference
from corral.core.ports.registries import RemoteManifest
from corral.plugins.testing.gguf import SMALL_MODEL, TensorEntry, gguf_bytes
from corral.plugins.testing.registry import MemoryRegistry, push_model
from tests.split_gguf import split_gguf
from tests.tiny_llama import write_tiny_llama
from tests.tiny_lora import random_factors, write_peft

CHATML = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
WEIGHTS = gguf_bytes({**SMALL_MODEL, "tokenizer.chat_template": CHATML})
FLOATS = gguf_bytes({**SMALL_MODEL, "general.file_type": 1})
PLAIN = gguf_bytes({**SMALL_MODEL, "tokenizer.chat_template": "{{ messages }}"})
PROJECTOR = gguf_bytes({"general.architecture": "clip", "general.name": "eye", "clip.has_vision_encoder": True})
MATRIX = "blk.0.attn_q.weight"
SQUARE = gguf_bytes(tensors=[TensorEntry(MATRIX, (8, 4))])
FACTORS = (TensorEntry(f"{MATRIX}.lora_a", (8, 4)), TensorEntry(f"{MATRIX}.lora_b", (4, 4), 0, 64))
LORA = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
ADAPTER, SECOND = (gguf_bytes({**LORA, "adapter.lora.alpha": alpha}, FACTORS) for alpha in (1.0, 2.0))
PART = gguf_bytes({**SMALL_MODEL, "split.count": 3, "split.no": 0})
TRUNCATED = gguf_bytes(tensors=[TensorEntry("w", size_bytes=128, data=b"short")])
SEED = b'{"seed":1}\n'
STOP = '{"num_ctx":2048,"stop":["\\u003c|a|\\u003e"],"temperature":0.5}\n'


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any]) -> Iterator[Any]:
    with start_server() as server:
        yield server


@pytest.fixture(scope="module")
def api(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def uploaded(api: httpx.Client, **files: bytes) -> dict[str, Digest]:
    """The digests of these files, which are uploaded; ``_`` in a name stands for a dot."""
    for data in files.values():
        assert api.post(f"/api/blobs/{digest_of(data)}", content=data).status_code in (200, 201)
    return {name.replace("_", "."): digest_of(data) for name, data in files.items()}


def created(api: httpx.Client, name: str, **body: Any) -> list[str]:
    """The statuses of the events."""
    response = api.post("/api/create", json={"model": name, **body})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    events = [json.loads(line) for line in response.text.splitlines()]
    assert all("error" not in event for event in events), events
    return [event["status"] for event in events]


def shown(api: httpx.Client, name: str) -> Any:
    return api.post("/api/show", json={"model": name}).json()


def refused(api: httpx.Client, **body: Any) -> tuple[int, str]:
    response = api.post("/api/create", json={"model": "refused", **body})
    assert api.post("/api/show", json={"model": "refused"}).status_code == 404
    return response.status_code, response.json()["error"]


def manifest_of(server: Any, name: str) -> tuple[bytes, Mapping[str, Any], dict[str, bytes]]:
    """A model's manifest, as bytes and decoded, and its small blobs by the kind of their layer."""

    async def read(runtime: Any) -> Any:
        stored = await server.world.manifests.get(parse_name(name))
        plain = json.loads(stored.data)
        texts = {}
        for layer in (plain["config"], *plain["layers"]):
            kind = layer["mediaType"].rpartition(".")[2]
            texts[kind] = b"".join([chunk async for chunk in server.world.blobs.read(layer["digest"])])
        return stored.data, plain, texts

    found: tuple[bytes, Mapping[str, Any], dict[str, bytes]] = server.call(read)
    return found


def test_from_a_model(api: httpx.Client, server: Any) -> None:
    """Layers of the model are used, new ones are created, and the events say so in order; the model runs."""
    weights = digest_of(b"weights of other")
    system, params = digest_of(b"Be brief."), digest_of(STOP.encode())
    messages = b'[{"role":"user","content":"hi"}]\n'
    statuses = created(
        api,
        "mario",
        **{"from": "OTHER:latest"},
        system="Be brief.",
        parameters={"stop": ["<|a|>"], "temperature": 0.5, "num_ctx": 2048},
    )
    assert statuses == [
        f"using existing layer {weights}",
        f"creating new layer {system}",
        f"creating new layer {params}",
        f"using existing layer {digest_of(messages)}",
        "writing manifest",
        "success",
    ]
    found = shown(api, "mario")
    assert (found["system"], found["messages"]) == ("Be brief.", [{"role": "user", "content": "hi"}])
    data, manifest, texts = manifest_of(server, "mario")
    assert data.endswith(b"}\n")
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert [layer["mediaType"].rpartition(".")[2] for layer in manifest["layers"]] == [
        "model", "system", "params", "messages",
    ]  # fmt: skip
    assert texts["params"] == STOP.encode()
    assert texts["messages"] == messages
    answer = api.post("/api/generate", json={"model": "mario", "prompt": "x", "stream": False, "keep_alive": 0}).json()
    assert answer["done_reason"] == "stop"


def test_what_is_merged_and_what_is_replaced(api: httpx.Client) -> None:
    """Parameters are merged, licences appended, everything else is replaced if it is given, and kept if not."""
    created(
        api, "first", **{"from": "other"}, template="{{ .Prompt }}", license="A", parameters={"top_k": 1, "seed": 2},
        messages=[{"role": "USER", "content": "a"}], renderer="r", parser="p", requires="0.14.0",
    )  # fmt: skip
    created(
        api, "second", **{"from": "first"}, license=["B", "C"], parameters={"seed": 3, "stop": "x", "top_k": None},
        messages=[{"role": "assistant", "content": "b"}], renderer="q",
    )  # fmt: skip
    found = shown(api, "second")
    assert found["license"] == "A\nB\nC"
    assert found["parameters"].split() == ["seed", "3", "stop", '"x"']
    assert found["messages"] == [{"role": "assistant", "content": "b"}]
    assert found["requires"] == "0.14.0"
    lines = found["modelfile"].splitlines()
    assert {"RENDERER q", "PARSER p", "REQUIRES 0.14.0", "TEMPLATE {{ .Prompt }}"} <= set(lines)
    assert "SYSTEM You are other." in lines


def test_messages_with_everything(api: httpx.Client, server: Any) -> None:
    """Tool calls, results, thinking and images of messages are kept, in the form in which Ollama writes them."""
    call = {"id": "call_1", "function": {"index": 0, "name": "f", "arguments": {"b": 1, "a": "<"}}}
    messages = [
        {"role": "user", "content": "", "images": ["aGk="]},
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "1", "tool_name": "f", "tool_call_id": "call_1"},
    ]
    created(api, "talker", **{"from": "smol:q4"}, messages=messages)
    _, _, texts = manifest_of(server, "talker")
    assert json.loads(texts["messages"]) == messages
    created(api, "talker2", **{"from": "talker"}, system="x")
    assert manifest_of(server, "talker2")[2]["messages"] == texts["messages"]


def test_from_a_file(api: httpx.Client, server: Any) -> None:
    """A GGUF is read, its template is named if its family is known, and what its header says is in the config."""
    files = uploaded(api, model_gguf=WEIGHTS)
    statuses = created(api, "small", files=files, system="Be kind.")
    assert statuses == [
        "parsing GGUF",
        "verifying conversion",
        f"using existing layer {digest_of(WEIGHTS)}",
        "using autodetected template chatml",
        f"creating new layer {digest_of(b'Be kind.')}",
        "writing manifest",
        "success",
    ]
    found = shown(api, "small")
    assert found["template"] == CHATML
    assert found["model_info"]["general.architecture"] == "llama"
    assert found["tensors"] == [{"name": "token_embd.weight", "type": "F32", "shape": [32]}]
    config = json.loads(manifest_of(server, "small")[2]["v1+json"])
    assert {name: config[name] for name in ("model_format", "model_family", "model_type", "file_type", "os")} == {
        "model_format": "gguf", "model_family": "llama", "model_type": "32", "file_type": "Q4_1", "os": "linux",
    }  # fmt: skip
    assert "autodetected" not in " ".join(created(api, "plain", files=uploaded(api, x=PLAIN)))


def test_with_a_projector(api: httpx.Client) -> None:
    """A projector beside the weights makes the model see."""
    files = uploaded(api, model_gguf=WEIGHTS, mmproj_gguf=PROJECTOR)
    assert created(api, "sees", files=files)[:3] == ["parsing GGUF", "parsing GGUF", "verifying conversion"]
    found = shown(api, "sees")
    assert "vision" in found["capabilities"]
    assert found["projector_info"]["clip.has_vision_encoder"] is True
    assert found["projector_info"]["general.name"] == "eye"
    assert "general.name" not in found["model_info"]
    layers = {file["role"]: file["digest"] for file in found["corral"]["files"]}
    assert layers == {"weights": digest_of(WEIGHTS), "projector": digest_of(PROJECTOR)}
    created(api, "sees-too", **{"from": "sees"}, system="x")
    assert "vision" in shown(api, "sees-too")["capabilities"]
    created(api, "adds", **{"from": "small"}, files=uploaded(api, p_gguf=PROJECTOR))
    assert "vision" in shown(api, "adds")["capabilities"]


def test_with_adapters(api: httpx.Client, server: Any) -> None:
    """One adapter makes the manifest that Ollama writes; several are a list, each with its scale, after those that the
    other model has."""
    created(api, "square", files=uploaded(api, square_gguf=SQUARE))
    statuses = created(api, "tuned", **{"from": "square"}, adapters=uploaded(api, lora_gguf=ADAPTER))
    assert statuses[0] == "parsing GGUF"
    assert f"using existing layer {digest_of(ADAPTER)}" in statuses
    [layer] = [layer for layer in manifest_of(server, "tuned")[1]["layers"] if layer["digest"] == digest_of(ADAPTER)]
    assert layer == {
        "mediaType": "application/vnd.ollama.image.adapter", "digest": digest_of(ADAPTER), "size": len(ADAPTER),
    }  # fmt: skip
    more = [
        {"files": uploaded(api, second_gguf=SECOND), "scale": 0.5},
        {"files": uploaded(api, lora_gguf=ADAPTER), "scale": -2},
    ]
    created(api, "several", **{"from": "tuned"}, adapters=more)
    files = [file for file in shown(api, "several")["corral"]["files"] if file["role"] == "adapter"]
    assert [(file["digest"], file["scale"]) for file in files] == [
        (digest_of(ADAPTER), 1.0), (digest_of(SECOND), 0.5), (digest_of(ADAPTER), -2.0),
    ]  # fmt: skip
    lines = [line for line in shown(api, "several")["modelfile"].splitlines() if line.startswith("ADAPTER ")]
    assert [line.rpartition("sha256-")[2].partition(" ")[2] for line in lines] == ["", "0.5", "-2"]


def test_with_an_adapter_of_peft(api: httpx.Client, server: Any, tmp_path: Path) -> None:
    """Both files of a LoRA in safetensors are converted for the base, as one adapter; the uploads are gone afterwards,
    and an adapter that cannot be converted creates nothing."""
    base = write_tiny_llama(tmp_path / "tiny.gguf", "F32")
    folder = write_peft(tmp_path / "peft", random_factors(base))
    names = ("adapter_config.json", "adapter_model.safetensors")
    created(api, "tiny-base", files=uploaded(api, tiny_gguf=base.read_bytes()))

    def files() -> dict[str, Digest]:
        found = {name: (folder / name).read_bytes() for name in names}
        for data in found.values():
            assert api.post(f"/api/blobs/{digest_of(data)}", content=data).status_code in (200, 201)
        return {name: digest_of(data) for name, data in found.items()}

    given = files()
    statuses = created(api, "tiny-tuned", **{"from": "tiny-base"}, adapters=given)
    [layer] = [file for file in shown(api, "tiny-tuned")["corral"]["files"] if file["role"] == "adapter"]
    assert (statuses[0], f"creating new layer {layer['digest']}" in statuses) == ("converting adapter", True)
    assert all(api.head(f"/api/blobs/{digest}").status_code == 404 for digest in given.values())
    (folder / names[0]).write_text('{"peft_type": "LORA", "lora_alpha": 8, "use_dora": true}')
    status, error = refused(api, **{"from": "tiny-base"}, adapters=files(), stream=False)
    assert (status, "use_dora is True: DoRA" in error) == (400, True), error
    status, error = refused(api, **{"from": "tiny-base"}, adapters={names[1]: files()[names[1]]}, stream=False)
    assert (status, "adapter_config.json is missing" in error) == (400, True), error


def test_an_adapter_that_does_not_fit(api: httpx.Client) -> None:
    """It is refused, with an error that names both, and nothing is created."""
    created(api, "square", files=uploaded(api, square_gguf=SQUARE))
    wide = (TensorEntry(f"{MATRIX}.lora_a", (8, 4)), TensorEntry(f"{MATRIX}.lora_b", (4, 8)))
    half = (TensorEntry(f"{MATRIX}.lora_a", (8, 4)), TensorEntry(f"{MATRIX}.lora_b", (2, 4), 0, 32))
    norm = (TensorEntry("token_embd.weight.lora_a"), TensorEntry("token_embd.weight.lora_b"))
    for data, text in (
        (gguf_bytes(LORA, wide), "does not fit square: it changes blk.0.attn_q.weight of the shape (8, 8), but there"),
        (gguf_bytes({**LORA, "general.architecture": "qwen2"}, FACTORS), "made for the architecture 'qwen2', not 'lla"),
        (gguf_bytes(LORA, half), "blk.0.attn_q.weight.lora_a of the shape (8, 4) does not fit .lora_b of the shape"),
        (gguf_bytes(LORA, norm), "token_embd.weight.lora_a of the shape (32,) does not fit"),
        (gguf_bytes(LORA, FACTORS[:1]), "it has blk.0.attn_q.weight.lora_a without its other half"),
        (gguf_bytes(LORA, ()), "it changes nothing"),
        (gguf_bytes({**LORA, "adapter.lora.alpha": 4}, FACTORS), "adapter.lora.alpha is not a 32-bit float"),
        (gguf_bytes({**LORA, "adapter.lora.alpha": float("nan")}, FACTORS), "adapter.lora.alpha is nan"),
        (gguf_bytes({**LORA, "adapter.type": "dora"}, FACTORS), "adapter.type is 'dora'"),
        (gguf_bytes({**LORA, "adapter.alora.invocation_tokens": [1]}, FACTORS), "it is an activated LoRA"),
        (SQUARE, "other.gguf is no adapter"),
    ):
        body = {"from": "square", "adapters": uploaded(api, other_gguf=data), "stream": False}
        status, error = refused(api, **body)
        assert (status, text in error) == (400, True), error
        assert "other.gguf" in error


def test_without_a_stream(api: httpx.Client) -> None:
    """The answer is the last event; errors have their status in both cases."""
    response = api.post("/api/create", json={"name": "quiet", "from": "smol:q4", "stream": False})
    assert (response.json(), response.headers["content-type"]) == ({"status": "success"}, "application/json")
    for stream in (True, False):
        response = api.post("/api/create", json={"model": "quiet", "stream": stream})
        assert response.status_code == 400
        assert response.json() == {"error": "neither 'from' or 'files' was specified"}


REMOTE = {"from": "far", "remote_host": "10.0.0.1"}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"model": "a b"}, 400, "invalid model name"),
        ({"model": ""}, 400, "invalid model name"),
        ({"from": "a b"}, 400, "invalid model name"),
        ({"from": "x:cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        ({"files": {"/x": "sha256:" + "0" * 64}}, 400, "file path must be relative"),
        ({"files": {"a/../x": "sha256:" + "0" * 64}}, 400, "file path must be relative"),
        ({"files": {"x": ""}}, 400, "invalid digest format"),
        ({"files": {}}, 400, "unknown type"),
        ({"files": {"x": 1}}, 400, "json: cannot unmarshal number into Go struct field CreateRequest.files of type "
         "string"),
        ({"files": {"x.safetensors": "sha256:" + "0" * 64}}, 404, f'blob "sha256:{"0" * 64}" not found'),
        ({"files": {"x.pth": "sha256:" + "0" * 64}}, 400, "x.pth is one of PyTorch's own files"),
        ({"files": {"x.gguf": "sha256:" + "0" * 64}}, 404, f'blob "sha256:{"0" * 64}" not found'),
        ({"from": "smol:q4", "adapters": {"a": "sha256:" + "0" * 64, "b": "sha256:" + "0" * 64}}, 400,
         "only one adapter is currently supported"),
        ({"from": "smol:q4", "template": "{{ .Prompt"}, 400, "template error: template: :1: unclosed action"),
        ({"from": "smol:q4", "parameters": {"top_k": "many"}}, 400, 'option "top_k" must be of type integer'),
        ({"from": "smol:q4", "license": 1}, 400, "license must be a string or an array of strings"),
        ({"from": "smol:q4", "info": {"base_name": 1}}, 400, 'info field "base_name" must be a string'),
        ({"from": "smol:q4", "info": {"context_length": "1"}}, 400, 'info field "context_length" must be a number'),
        ({"from": "smol:q4", "info": {"context_length": -1}}, 400,
         'info field "context_length" must be a non-negative integer'),
        ({"from": "smol:q4", "draft_quantize": "q8_0"}, 400, "--draft-quantize requires a DRAFT model"),
        ({**REMOTE, "draft_files": {"x": "sha256:" + "0" * 64}}, 400, "DRAFT cannot be used with remote models"),
        ({**REMOTE, "files": {"x": "sha256:" + "0" * 64}}, 400, "files cannot be used with remote models"),
        ({**REMOTE, "adapters": {"x": "sha256:" + "0" * 64}}, 400, "adapters cannot be used with remote models"),
        ({**REMOTE, "quantize": "q8_0"}, 400, "quantize cannot be used with remote models"),
        ({"from": "far", "remote_host": "ftp://x"}, 400, "bad remote"),
        ({"from": "smol:q4", "quantize": "q3"}, 400, "unsupported quantization type Q3 - supported types are F32, F16, "
         "Q4_K_S, Q4_K_M, Q8_0"),
        ({"from": "smol:q4", "quantize": "q8_0"}, 400, "quantization is only supported for F16, BF16 and F32 models"),
        ({"model": "corral.derived/x/y", "from": "smol:q4"}, 400, "corral.derived/x/y:latest is a name that"),
    ],
)  # fmt: skip
def test_what_is_refused(api: httpx.Client, body: Any, status: int, text: str) -> None:
    """Each error has Ollama's text and a status that says whose fault it is; nothing is created."""
    found = refused(api, **body)
    assert found[0] == status
    assert found[1].startswith(text)


def test_split_weights(api: httpx.Client, tmp_path: Path) -> None:
    """One ``parsing GGUF`` for each part, then they are copied into one file, as Ollama does."""
    whole = gguf_bytes({**SMALL_MODEL, "general.name": "Split", "tokenizer.chat_template": CHATML})
    (tmp_path / "m.gguf").write_bytes(whole)
    parts = split_gguf(tmp_path / "m.gguf", 2, first_is_empty=True)
    for part in parts:
        assert api.post(f"/api/blobs/{digest_of(part.read_bytes())}", content=part.read_bytes()).status_code == 201
    files = {part.name: digest_of(part.read_bytes()) for part in parts}
    statuses = created(api, "split", files=files)
    assert [status for at, status in enumerate(statuses) if status not in statuses[at + 1 :]] == [
        "parsing GGUF",
        "validating GGUF model",
        "verifying conversion",
        f"creating new layer {digest_of(whole)}",
        "using autodetected template chatml",
        "writing manifest",
        "success",
    ]
    assert statuses[:2] == ["parsing GGUF", "parsing GGUF"]
    assert shown(api, "split")["model_info"]["general.architecture"] == "llama"


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("text.gguf", b"no weights at all", "supplied file was not in GGUF format"),
        ("text.bin", b"no weights at all", "unknown type"),
        ("empty.gguf", b"", "supplied file was not in GGUF format"),
        ("cut.gguf", WEIGHTS[:200], "cut.gguf: "),
        ("cut.gguf", WEIGHTS[:-64], "cut.gguf: "),
        ("part-00001-of-00003.gguf", PART, 'split GGUF "part-00001-of-00003.gguf" has 1 shards, expected 3'),
        ("part.gguf", PART, 'split GGUF "part.gguf" must use llama.cpp split filename pattern'),
        (
            "part-00001-of-00002.gguf",
            PART,
            'split GGUF "part-00001-of-00002.gguf" filename count 2 does not match metadata count 3',
        ),
        (
            "part-00001-of-00003.gguf",
            gguf_bytes({**SMALL_MODEL, "split.count": 3}),
            'split GGUF "part-00001-of-00003.gguf" is missing split.no metadata',
        ),
        (
            "mmproj.gguf",
            PROJECTOR,
            "a model needs exactly one file of weights, but this has 0: mmproj.gguf (projector)",
        ),
    ],
)
def test_a_file_that_is_no_model(api: httpx.Client, name: str, data: bytes, text: str) -> None:
    """The error names the file as the client does; it comes after the first event, or with its status alone."""
    assert api.post(f"/api/blobs/{digest_of(data)}", content=data).status_code in (200, 201)
    body = {"model": "broken", "files": {name: digest_of(data)}}
    last = json.loads(api.post("/api/create", json=body).text.splitlines()[-1])
    assert last["error"].startswith(text)
    response = api.post("/api/create", json={**body, "stream": False})
    assert response.status_code == 400
    assert response.json()["error"] == last["error"]
    assert api.post("/api/show", json={"model": "broken"}).status_code == 404


def test_quantizing_what_has_the_type(api: httpx.Client) -> None:
    """The type that the weights have needs no work."""
    files = uploaded(api, f16_gguf=FLOATS)
    assert created(api, "floats", files=files, quantize="f16")[-1] == "success"


def test_quantizing(api: httpx.Client, tmp_path: Path) -> None:
    """The events are Ollama's; the model has the type, and says what it was made from. Quantized weights need the flag
    `requantize`, and what fails leaves nothing."""
    pytest.importorskip("llama_cpp")
    data = write_tiny_llama(tmp_path / "tiny.gguf").read_bytes()
    response = api.post(
        "/api/create", json={"model": "tiny", "files": uploaded(api, tiny_gguf=data), "quantize": "q8_0"}
    )
    events = [json.loads(line) for line in response.text.splitlines()]
    quantizing = [event for event in events if event["status"] == "quantizing F16 model to Q8_0"]
    assert {(event["digest"], event["total"]) for event in quantizing} == {("0" * 19, len(data))}
    statuses = list(dict.fromkeys(event["status"].partition(" sha256:")[0] for event in events))
    assert statuses == [
        "parsing GGUF", "quantizing F16 model to Q8_0", "verifying conversion", "creating new layer",
        "writing manifest", "success",
    ]  # fmt: skip
    assert shown(api, "tiny")["details"]["quantization_level"] == "Q8_0"
    assert refused(api, **{"from": "tiny"}, quantize="q4_0")[0] == 400
    again = created(api, "again", **{"from": "tiny"}, quantize="q4_0", requantize=True)
    assert list(dict.fromkeys(again))[:2] == ["quantizing Q8_0 model to Q4_0", "verifying conversion"]
    before = len(api.get("/api/tags").json()["models"])
    status, text = refused(api, **{"from": "tiny"}, quantize="iq2_xs", requantize=True, stream=False)
    assert (status, text[:35]) == (400, "IQ2_XS needs an importance matrix, ")
    assert len(api.get("/api/tags").json()["models"]) == before


def test_a_model_on_another_server(api: httpx.Client) -> None:
    """`remote_host` makes a model without weights; its address is completed as Ollama does, and `info` describes it."""
    info = {
        "capabilities": ["completion", "tools"],
        "model_family": "big",
        "base_name": "Big",
        "context_length": 8192.0,
        "parameter_size": "1T",
        "quantization_level": "FP8",
        "embedding_length": 64,
    }
    assert created(api, "stub", **REMOTE, info=info) == ["writing manifest", "success"]
    found = shown(api, "stub")
    assert (found["remote_model"], found["remote_host"]) == ("far", "http://10.0.0.1:11434")
    assert found["model_info"] == {
        "general.architecture": "big",
        "general.basename": "Big",
        "big.context_length": 8192,
        "big.embedding_length": 64,
    }
    assert found["details"]["parameter_size"] == "1T"
    assert found["capabilities"] == ["completion", "tools"]


def test_a_model_that_is_replaced(api: httpx.Client, server: Any) -> None:
    """The new model takes the name as it was spelt; what only the old one had is gone, its uploaded weights too."""
    weights = gguf_bytes({**SMALL_MODEL, "general.name": "replaced"})
    files = uploaded(api, old_gguf=weights)
    created(api, "Replaced", files=files, system="only here")
    created(api, "replaced", **{"from": "smol:q4"})
    names = [model["name"] for model in api.get("/api/tags").json()["models"]]
    assert "Replaced:latest" in names
    assert "replaced:latest" not in names
    assert api.head(f"/api/blobs/{digest_of(b'only here')}").status_code == 404
    assert api.head(f"/api/blobs/{digest_of(weights)}").status_code == 404
    assert created(api, "again", files=uploaded(api, old_gguf=weights))[-1] == "success"


def test_a_model_from_itself(api: httpx.Client) -> None:
    """A model can be changed in place."""
    created(api, "self", **{"from": "smol:q4"}, system="one")
    created(api, "self", **{"from": "self"}, system="two")
    assert shown(api, "self")["system"] == "two"


def test_a_model_that_is_pulled_first(start_server: Callable[..., Any]) -> None:
    """A model that the store lacks is pulled, under its own name; one that the registry lacks too is Ollama's error."""
    registry = MemoryRegistry()
    layers = (("application/vnd.ollama.image.model", WEIGHTS), ("application/vnd.ollama.image.system", b"Be far."))
    asyncio.run(push_model(registry, parse_reference("house/far:q4"), b'{"model_format":"gguf"}', *layers))
    with start_server(registry=registry) as server, httpx.Client(base_url=server.url, timeout=60) as api:
        statuses = created(api, "near", **{"from": "house/far:q4"}, parameters={"seed": 1})
        assert statuses[0] == "pulling manifest"
        assert f"pulling {digest_of(WEIGHTS)[7:19]}" in statuses
        assert statuses.count("writing manifest") == 2
        assert statuses[-5:-2] == [
            f"using existing layer {digest_of(WEIGHTS)}",
            f"using existing layer {digest_of(b'Be far.')}",
            f"creating new layer {digest_of(SEED)}",
        ]
        assert statuses.count("success") == 1
        assert {"house/far:q4", "near:latest"} <= {model["name"] for model in api.get("/api/tags").json()["models"]}
        assert shown(api, "near")["system"] == "Be far."
        response = api.post("/api/create", json={"model": "x", "from": "house/gone", "stream": False})
        assert response.status_code == 500
        assert response.json() == {"error": "pull model manifest: file does not exist"}


class _Unreachable(MemoryRegistry):
    async def manifest(self, reference: Reference) -> RemoteManifest:
        raise SourceUnavailable("no registry answers at registry.example")


def test_a_model_that_cannot_be_pulled(start_server: Callable[..., Any]) -> None:
    """The error names the model that the store lacks, which may be a mistyped one."""
    with start_server(registry=_Unreachable()) as server, httpx.Client(base_url=server.url, timeout=60) as api:
        response = api.post("/api/create", json={"model": "x", "from": "house/gone", "stream": False})
    assert response.status_code == 500
    assert response.json()["error"] == (
        "pull model manifest: house/gone is not in the store, and it cannot be pulled: "
        "no registry answers at registry.example"
    )


def test_many_at_once(api: httpx.Client) -> None:
    """Fifty models made from one at the same time, and fifty copies of it, all succeed."""

    def make(number: int) -> int:
        if number % 2:
            return api.post("/api/copy", json={"source": "other", "destination": f"many{number}"}).status_code
        body = {"model": f"many{number}", "from": "other", "system": f"number {number % 3}", "stream": False}
        return api.post("/api/create", json=body).status_code

    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(make, range(100))) == {200}
    for number in range(100):
        assert api.request("DELETE", "/api/delete", json={"model": f"many{number}"}).status_code == 200


MODELFILE = '''
FROM ./small.gguf
FROM ./mmproj.gguf
SYSTEM """Two
lines"""
PARAMETER stop "a "
MESSAGE user hi
LICENSE MIT
'''


@pytest.fixture
def command(
    server: Any, tmp_path: Path, user_at: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Runs ``corral`` in this process, in a folder with files, for the server."""
    (tmp_path / "small.gguf").write_bytes(WEIGHTS)
    (tmp_path / "mmproj.gguf").write_bytes(PROJECTOR)
    (tmp_path / "Modelfile").write_text(MODELFILE)
    monkeypatch.chdir(tmp_path)
    environment = user_at(tmp_path, CORRAL_HOST=server.url)

    def run(*arguments: str) -> tuple[object, str, str]:
        with CliRunner().isolation(env=environment) as (out, err, _):
            status: object = 0
            try:
                main(arguments)
            except SystemExit as end:
                status = end.code
            return status, out.getvalue().decode(), err.getvalue().decode()

    return run


def test_the_command_line_creates_on_the_server(command: Any, api: httpx.Client, server: Any, tmp_path: Path) -> None:
    """`corral create` uploads what the server lacks, and the server creates the model; nothing is stored here. A model
    that is replaced there is told."""
    assert command("create", "by-cli") == (0, f"created by-cli:latest on the server at {server.url}\n", "")
    found = shown(api, "by-cli")
    assert (found["system"], found["license"]) == ("Two\nlines", "MIT")
    assert found["messages"] == [{"role": "user", "content": "hi"}]
    assert "vision" in found["capabilities"]
    assert not (tmp_path / "models").exists()
    (tmp_path / "Modelfile").write_text("FROM by-cli\nPARAMETER seed 1")
    status, out, err = command("create", "by-cli", "--json")
    made = json.loads(out)
    listed = next(one for one in api.get("/api/tags").json()["models"] if one["name"] == "by-cli:latest")
    assert (status, made["server"], made["name"]) == (0, server.url, "by-cli:latest")
    assert err.startswith("replaced the model that was called by-cli:latest (ID ")
    assert (made["digest"], made["size_bytes"]) == (f"sha256:{listed['digest']}", listed["size"])
    assert {file["role"] for file in made["files"]} >= {"weights", "projector", "params"}
    assert shown(api, "by-cli")["parameters"].split() == ["seed", "1", "stop", '"a', '"']
    (tmp_path / "Modelfile").write_text("FROM ./small.gguf\n")
    assert command("create", "here", "--local") == (0, "created here:latest\n", "")
    assert (tmp_path / "models").exists()
    assert shown(api, "here")["error"] == "model 'here:latest' not found"
    (tmp_path / "Modelfile").write_text("FROM ./small.gguf\nTEMPLATE {{ .Prompt")
    status, _, err = command("create", "bad")
    assert (status, err) == (1, "Error: template error: template: :1: unclosed action\n")


def test_the_official_client(server: Any, api: httpx.Client, tmp_path: Path) -> None:
    """The official Python client uploads, creates, copies, shows and deletes."""
    (tmp_path / "small.gguf").write_bytes(WEIGHTS)
    with ollama.Client(host=server.url) as client:
        digest = client.create_blob(tmp_path / "small.gguf")
        assert digest == digest_of(WEIGHTS)
        events = list(client.create("by-client", files={"small.gguf": digest}, system="Hi.", stream=True))
        assert events[-1].status == "success"
        assert f"using existing layer {digest}" in [event.status for event in events]
        license = ["A", "B"]
        assert client.create("by-client2", from_="by-client", license=license, stream=False).status == "success"
        assert client.copy("by-client2", "by-client3").status == "success"
        found = client.show("by-client3")
        assert (found.license, found.template) == ("A\nB", CHATML)
        assert found.modelinfo is not None
        assert found.modelinfo["general.architecture"] == "llama"
        with pytest.raises(ollama.ResponseError, match="neither 'from' or 'files' was specified") as caught:
            client.create("nothing")
        assert caught.value.status_code == 400
        for name in ("by-client", "by-client2", "by-client3"):
            assert client.delete(name).status == "success"
        with pytest.raises(ollama.ResponseError, match="model 'by-client:latest' not found"):
            client.show("by-client")

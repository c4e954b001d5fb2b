"""Ollama's manifest dialect: what it reads of old and new manifests, what it refuses, what it writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.core.errors import StorageError, Unsupported
from corral.core.models.digests import Digest, digest_of
from corral.core.models.model import Model, ModelFile, RemoteModel, TemplateText
from corral.core.models.names import parse_name
from corral.core.requests.messages import Message

_DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_IMAGE = "application/vnd.ollama.image."
_WEIGHTS = digest_of(b"weights")


def _layer(kind: str, data: bytes, **more: Any) -> dict[str, Any]:
    media_type = kind if "/" in kind else _IMAGE + kind
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


def _manifest(config: bytes, layers: list[dict[str, Any]] | None) -> bytes:
    return json.dumps(
        {"schemaVersion": 2, "mediaType": _DOCKER, "config": _layer(_CONFIG, config), "layers": layers}
    ).encode()


def _read(data: bytes, *blobs: bytes) -> Model:
    return OllamaManifestFormat().read(data, {digest_of(blob): blob for blob in blobs})


def _write(model: Model) -> tuple[bytes, tuple[bytes, ...]]:
    return OllamaManifestFormat().write(parse_name("m"), model)


def _size_bytes(data: bytes) -> int:
    return sum(blob.size_bytes for blob in OllamaManifestFormat().blobs(data))


def _model(**changes: Any) -> Model:
    fields: dict[str, Any] = {
        "format": "gguf",
        "family": "llama",
        "families": ("llama",),
        "files": (ModelFile(role="weights", media_type="", digest=_WEIGHTS, size_bytes=7),),
    }
    return Model(**{**fields, **changes})


def test_a_published_model_is_read_whole() -> None:
    """Config, texts, parameters, messages and licences of a library model, with the old `rootfs` in its config."""
    config = json.dumps(
        {
            "model_format": "gguf",
            "model_family": "llama",
            "model_families": ["llama"],
            "model_type": "8.0B",
            "file_type": "Q4_K_M",
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": ["sha256:00"]},
        }
    ).encode()
    params = b'{"stop":["<|eot|>","x"],"temperature":0.5,"num_ctx":4096,"seed":7}'
    messages = b'[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]'
    texts = {"template": b"{{ .Prompt }}", "system": b"be kind", "params": params, "messages": messages}
    layers = [
        _layer("model", b"weights", **{"from": "/tmp/x"}),
        _layer("license", b"MIT"),
        _layer("license", b"Apache"),
    ]
    layers += [_layer(kind, data) for kind, data in texts.items()]
    data = _manifest(config, layers)
    model = _read(data, config, *texts.values(), b"MIT", b"Apache")
    assert (model.format, model.family, model.families) == ("gguf", "llama", ("llama",))
    assert (model.parameter_size, model.quantization) == ("8.0B", "Q4_K_M")
    assert _size_bytes(data) == len(config) + sum(layer["size"] for layer in layers)
    assert model.template == TemplateText(kind="go", text="{{ .Prompt }}")
    assert model.system == "be kind"
    assert model.parameters == {"stop": ["<|eot|>", "x"], "temperature": 0.5, "num_ctx": 4096, "seed": 7}
    assert model.messages == (Message(role="user", content="hi"), Message(role="assistant", content="ho"))
    assert model.licenses == ("MIT", "Apache")
    assert model.weights is not None
    assert model.weights.digest == _WEIGHTS


def test_only_config_and_texts_are_read_whole() -> None:
    """Every blob is named, in the manifest's order; weights, projectors and unknown layers are not texts."""
    layers = [_layer("model", b"weights"), _layer("projector", b"p"), _layer("system", b"s"), _layer("new", b"n")]
    blobs = OllamaManifestFormat().blobs(_manifest(b"{}", layers))
    assert [blob.digest for blob in blobs] == [digest_of(data) for data in (b"{}", b"weights", b"p", b"s", b"n")]
    assert [blob.digest for blob in blobs if blob.is_text] == [digest_of(b"{}"), digest_of(b"s")]


def test_the_old_prompt_layer_is_the_template() -> None:
    """`prompt` is the template's original name."""
    model = _read(_manifest(b"{}", [_layer("model", b"w"), _layer("prompt", b"{{ .P }}")]), b"{}", b"{{ .P }}")
    assert model.template == TemplateText(kind="go", text="{{ .P }}")


def test_unknown_layers_count_for_the_size_only() -> None:
    """A layer of an unknown kind is kept with its media type, and does nothing else."""
    data = _manifest(b"{}", [_layer("model", b"weights"), _layer("hologram", b"12345")])
    model = _read(data, b"{}")
    assert _size_bytes(data) == 2 + 7 + 5
    assert [(file.role, file.media_type) for file in model.files] == [
        ("weights", _IMAGE + "model"),
        ("other", _IMAGE + "hologram"),
    ]


def test_an_upstream_has_no_layers() -> None:
    """Go writes null for no layers; the config says where the model runs."""
    config = b'{"remote_host":"https://ollama.com","remote_model":"big","capabilities":["tools"],"context_length":99}'
    data = _manifest(config, None)
    assert OllamaManifestFormat().recognises(data)
    model = _read(data, config)
    assert model.remote == RemoteModel(host="https://ollama.com", model="big")
    assert (model.capabilities, model.context_length, model.weights) == (("tools",), 99, None)


def test_files_of_a_folder_model_keep_their_names() -> None:
    """Tensors and named configs carry their path."""
    layers = [_layer("tensor", b"t", name="blk.0.weight"), _layer("json", b"{ }", name="config.json")]
    model = _read(_manifest(b"{}", layers), b"{}")
    assert [(file.role, file.path) for file in model.files] == [("weights", "blk.0.weight"), ("config", "config.json")]


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{}", b"[]", b"null", b"no json", b"\xff", b'{"config":{}}', b"[" * 100_000),
        _manifest(b"{}", [{"mediaType": _IMAGE + "model", "digest": "sha256:zz", "size": 1}]),
        _manifest(b"{}", [_layer("model", b"w") | {"size": -1}]),
        _manifest(b"{}", [_layer("model", b"w") | {"size": "big"}]),
        _manifest(b"{}", [_layer("application/vnd.oci.image.layer.v1.tar", b"w")]),
        _manifest(b"{}", [_layer("model", b"w")]).replace(
            _CONFIG.encode(), b"application/vnd.oci.image.config.v1+json"
        ),
        _manifest(b"{}", [_layer("model", b"w", name="x" * 5_000_000)]),
    ],
)
def test_foreign_and_malformed_manifests_are_not_recognised(data: bytes) -> None:
    """`recognises` answers False and never raises."""
    assert OllamaManifestFormat().recognises(data) is False


@pytest.mark.parametrize("data", [b"no json", b"{}", _manifest(b"{}", [{"digest": "sha256:zz"}])])
def test_malformed_manifests_raise_storage_error(data: bytes) -> None:
    """`blobs` and `read` say what is wrong."""
    with pytest.raises(StorageError):
        OllamaManifestFormat().blobs(data)
    with pytest.raises(StorageError):
        _read(data)


def test_text_layers_have_a_limit() -> None:
    """A manifest that announces a huge text is refused before anything is read."""
    with pytest.raises(StorageError, match="text layer"):
        OllamaManifestFormat().blobs(_manifest(b"{}", [_layer("system", b"s") | {"size": 1 << 40}]))


def test_missing_and_malformed_texts_are_named() -> None:
    """A missing text, and parameters that are not an object, raise StorageError."""
    with pytest.raises(StorageError, match=r"incomplete: the layer sha256:.*system\) is missing"):
        _read(_manifest(b"{}", [_layer("system", b"s")]), b"{}")
    for kind, subject, text in (
        ("params", "parameters", b"[1]"),
        ("params", "parameters", b"{"),
        ("messages", "messages", b'{"role":1}'),
    ):
        with pytest.raises(StorageError, match=rf"the layer of {subject} is malformed"):
            _read(_manifest(b"{}", [_layer(kind, text)]), b"{}", text)


def test_what_is_written_is_what_ollama_writes() -> None:
    """The manifest has exactly Ollama's fields, its config too, and the blobs are those it names."""
    model = _model(
        parameter_size="134.52M",
        quantization="Q4_1",
        template=TemplateText(kind="go", text="{{ .Prompt }}"),
        system="be kind",
        parameters={"stop": ["a"], "seed": 1},
        messages=(Message(role="user", content="hi"),),
        licenses=("MIT",),
    )
    data, blobs = _write(model)
    manifest = json.loads(data)
    assert data.endswith(b"\n")
    assert (manifest["schemaVersion"], manifest["mediaType"]) == (2, _DOCKER)
    assert manifest["config"] == {"mediaType": _CONFIG, "digest": digest_of(blobs[0]), "size": len(blobs[0])}
    kinds = [layer["mediaType"].removeprefix(_IMAGE) for layer in manifest["layers"]]
    assert kinds == ["model", "template", "system", "license", "params", "messages"]
    assert manifest["layers"][0] == {"mediaType": _IMAGE + "model", "digest": _WEIGHTS, "size": 7}
    assert [layer["digest"] for layer in manifest["layers"][1:]] == [digest_of(blob) for blob in blobs[1:]]
    config = json.loads(blobs[0])
    assert config == {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": "134.52M",
        "file_type": "Q4_1",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in manifest["layers"]]},
    }


def test_a_written_model_is_read_back() -> None:
    """Everything the dialect holds survives writing and reading."""
    model = _model(
        parameter_size="8.0B",
        quantization="Q4_K_M",
        context_length=4096,
        embedding_length=64,
        template=TemplateText(kind="go", text="{{ .Prompt }}"),
        system="",
        parameters={"temperature": 0.1},
        messages=(Message(role="user", content="hi"),),
        licenses=("MIT", "Apache"),
        capabilities=("vision",),
        requires="0.9.0",
        files=(
            ModelFile(role="weights", media_type="", digest=_WEIGHTS, size_bytes=7),
            ModelFile(role="projector", media_type="", digest=Digest("sha256:" + "2" * 64), size_bytes=9),
        ),
    )
    data, blobs = _write(model)
    found = _read(data, *blobs)
    for field in (
        *("format", "family", "families", "parameter_size", "quantization", "context_length", "embedding_length"),
        *("template", "system", "parameters", "messages", "licenses", "capabilities", "requires"),
    ):
        assert getattr(found, field) == getattr(model, field), field
    assert [(file.role, file.digest) for file in found.files[:2]] == [(file.role, file.digest) for file in model.files]
    assert _write(found) == (data, blobs)


def test_what_the_dialect_cannot_say_is_refused() -> None:
    """A Jinja template, and a file without an Ollama layer, raise Unsupported instead of being lost."""
    with pytest.raises(Unsupported, match="Go templates"):
        _write(_model(template=TemplateText(kind="jinja", text="{{ x }}")))
    stray = ModelFile(role="other", media_type="text/plain", digest=_WEIGHTS, size_bytes=7)
    with pytest.raises(Unsupported, match="text/plain"):
        _write(_model(files=(stray,)))

"""ModelPack manifests: written, read back, read from other tools, and in a form that a real Ollama lists and keeps."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from corral.adapters.formats.modelpack import ModelPackFormat
from corral.core.errors import StorageError, Unsupported
from corral.core.models.digests import digest_of, mentioned_digests
from corral.core.models.model import FileRole, Model, ModelFile, RemoteModel, TemplateText
from corral.core.models.names import parse_name
from corral.core.requests.messages import Message

FILES: Mapping[str, tuple[FileRole, bytes]] = {
    "model.onnx": ("weights", b"graph"),
    "onnx/data.bin": ("weights", b"weights"),
    "style.onnx_adapter": ("adapter", b"lora"),
    "genai_config.json": (
        "config",
        b'{"model": {"type": "qwen2", "context_length": 32768, "decoder": {"hidden_size": 896}}}',
    ),
    "tokenizer.json": ("config", b"{}"),
    "LICENSE": ("license", b"MIT"),
    "README.md": ("other", b"# A model"),
}


def _model(files: Mapping[str, tuple[FileRole, bytes]] = FILES, **more: Any) -> Model:
    described = [
        ModelFile(role=role, media_type="", digest=digest_of(data), size_bytes=len(data), path=path)
        for path, (role, data) in files.items()
    ]
    fields: dict[str, Any] = {"format": "onnx", "family": "qwen2", "parameter_size": "494.03M", "quantization": "INT4"}
    return Model(files=tuple(described), **{**fields, **more})


def _write(model: Model) -> tuple[bytes, tuple[bytes, ...]]:
    return ModelPackFormat().write(parse_name("m"), model)


def _read(manifest: bytes, small: tuple[bytes, ...], files: Mapping[str, tuple[FileRole, bytes]] = FILES) -> Model:
    form = ModelPackFormat()
    known = {digest_of(data): data for data in (*small, *(data for _, data in files.values()))}
    return form.read(manifest, {blob.digest: known[blob.digest] for blob in form.blobs(manifest) if blob.is_text})


def test_what_is_written_is_read_back() -> None:
    """Files with their paths and roles, sizes and texts are read back; facts come from the model's own files."""
    model = _model(
        template=TemplateText(kind="jinja", text="{{ messages }}"),
        system="Be brief.",
        parameters={"temperature": 0.5, "stop": ["x"]},
        messages=(Message(role="user", content="Hi"),),
    )
    manifest, small = _write(model)
    found = _read(manifest, small)
    kept = {file.path: (file.role, file.digest, file.size_bytes) for file in found.files}
    assert kept.items() >= {(path, (role, digest_of(data), len(data))) for path, (role, data) in FILES.items()}
    assert (found.format, found.family, found.quantization) == ("onnx", "qwen2", "INT4")
    assert (found.context_length, found.embedding_length) == (32768, 896)
    assert (found.template, found.system) == (model.template, "Be brief.")
    assert (found.parameters, found.messages, found.licenses) == (model.parameters, model.messages, ("MIT",))
    assert found.capabilities == ("completion",)
    again, _ = _write(found)
    assert {*mentioned_digests(again)} >= {file.digest for file in found.files}
    assert _read(again, small).files == found.files


def test_licenses_of_another_format_become_files() -> None:
    """A converted model keeps the licenses of its source; those that are files already are not written twice."""
    files = {path: file for path, file in FILES.items() if path != "LICENSE"}
    manifest, small = _write(_model(files, licenses=("MIT", "Free.")))
    found = _read(manifest, small)
    assert found.licenses == ("MIT", "Free.")
    assert [file.path for file in found.files_of("license")] == ["LICENSE", "LICENSE.2"]
    again, _ = _write(found)
    assert _read(again, small).files == found.files


def test_the_manifest_is_as_the_specification_wants_it() -> None:
    """Types, one raw layer per file with its path, and a config that lists every digest in the manifest's order."""
    manifest, (config, *_) = _write(_model())
    found = json.loads(manifest)
    assert found["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert found["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert found["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert found["config"]["digest"] == digest_of(config)
    kinds = {layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"] for layer in found["layers"]}
    assert kinds == {
        path: f"application/vnd.cncf.model.{kind}.v1.raw"
        for path, kind in {
            "model.onnx": "weight",
            "onnx/data.bin": "weight",
            "style.onnx_adapter": "weight",
            "genai_config.json": "weight.config",
            "tokenizer.json": "weight.config",
            "LICENSE": "doc",
            "README.md": "doc",
        }.items()
    }
    described = json.loads(config)
    assert described["config"] == {
        "architecture": "transformer",
        "format": "onnx",
        "paramSize": "494.0M",
        "quantization": "INT4",
    }
    assert re.fullmatch(r"\d+(\.\d)?[KMBT]", described["config"]["paramSize"])
    assert described["descriptor"] == {"name": "m", "family": "qwen2"}
    assert described["modelfs"] == {"type": "layers", "diffIds": [layer["digest"] for layer in found["layers"]]}


def test_a_real_ollama_can_read_it() -> None:
    """Ollama lists models by name, config and layers: each has a full digest and a size, and the config is a JSON
    object.

    Ollama decodes the config as its own, so no top-level key may have a different type there.
    """
    manifest, (config, *_) = _write(_model())
    found = json.loads(manifest)
    assert found["schemaVersion"] == 2
    for descriptor in (found["config"], *found["layers"]):
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", descriptor["digest"])
        assert isinstance(descriptor["size"], int)
        assert isinstance(descriptor["mediaType"], str)
    ollamas = {"model_format", "model_family", "model_families", "model_type", "file_type", "renderer", "parser"}
    ollamas |= {"remote_host", "remote_model", "capabilities", "context_length", "embedding_length", "draft"}
    ollamas |= {"architecture", "os", "rootfs", "requires", "base_name"}
    assert not ollamas & set(json.loads(config))


def test_a_template_inside_the_tokenizers_settings_counts() -> None:
    """Alone or as the default of several; a separate template file takes precedence."""
    for template in ('"{{ x }}"', '[{"name": "tool", "template": "no"}, {"name": "default", "template": "{{ x }}"}]'):
        settings = f'{{"chat_template": {template}, "eos_token": "</s>"}}'.encode()
        files: dict[str, tuple[FileRole, bytes]] = {**FILES, "tokenizer_config.json": ("config", settings)}
        found = _read(*_write(_model(files)), files)
        assert found.template == TemplateText(kind="jinja", text="{{ x }}", eos_text="</s>")


def test_only_its_own_manifests_are_recognised() -> None:
    """A manifest is recognised by its artifact type or config type, without raising."""
    manifest, _ = _write(_model())
    form = ModelPackFormat()
    assert form.recognises(manifest)
    assert form.recognises(manifest.replace(b'"artifactType"', b'"other"'))
    for other in (b"", b"{", b"[]", b"{}", b'{"config": {}, "layers": []}', manifest.replace(b"vnd.cncf", b"vnd.x")):
        assert not form.recognises(other)


def _changed(**changes: Any) -> bytes:
    manifest = json.loads(_write(_model())[0])
    manifest["layers"][0].update(changes)
    return json.dumps(manifest).encode()


@pytest.mark.parametrize(
    ("manifest", "complaint"),
    [
        (b"{", "malformed"),
        (_changed(digest="sha256:1234"), "invalid digest"),
        (_changed(size=-1), "claims -1 bytes"),
        (_changed(mediaType="application/vnd.cncf.model.weight.v1.tar"), "only raw layers"),
        (_changed(annotations={"org.cncf.model.filepath": "../../etc/passwd"}), "not a valid path"),
        (_changed(annotations={"org.cncf.model.filepath": "/etc/passwd"}), "not a valid path"),
        (_changed(annotations={"org.cncf.model.filepath": "Tokenizer.json"}), "occurs twice"),
        (_changed(annotations={"org.cncf.model.filepath": "config.json"}, size=10**9), "claims 1000000000 bytes"),
        (b" " * (5 * 1024 * 1024), "bytes; at most"),
    ],
)
def test_hostile_manifests_are_refused(manifest: bytes, complaint: str) -> None:
    """A malformed manifest is a StorageError that says what is wrong."""
    with pytest.raises(StorageError, match=complaint):
        ModelPackFormat().blobs(manifest)


@pytest.mark.parametrize("broken", [b"{", b"[]", b'{"model": ' + b"[" * 100_000])
def test_broken_files_of_a_model_are_told_by_name(broken: bytes) -> None:
    """A settings file that is not a JSON object is named."""
    files: dict[str, tuple[FileRole, bytes]] = {**FILES, "genai_config.json": ("config", broken)}
    manifest, small = _write(_model(files))
    with pytest.raises(StorageError, match=r"genai_config\.json is malformed"):
        _read(manifest, small, files)


def test_a_missing_small_file_is_told() -> None:
    """If a layer is missing from the store, the manifest is not read as a model."""
    manifest, _ = _write(_model())
    with pytest.raises(StorageError, match="incomplete"):
        ModelPackFormat().read(manifest, {})


@pytest.mark.parametrize(
    "model",
    [
        _model(template=TemplateText(kind="mustache", text="{{ prompt }}")),
        _model(remote=RemoteModel(host="http://127.0.0.1:1", model="llama3")),
        Model(format="onnx", files=(ModelFile(role="weights", media_type="", digest=digest_of(b""), size_bytes=0),)),
    ],
)
def test_what_has_no_place_is_unsupported(model: Model) -> None:
    """Templates of other languages, upstream models, and files that need a path."""
    with pytest.raises(Unsupported):
        _write(model)


def test_no_hostile_path_is_written() -> None:
    """A hand-made record whose path leads out of its folder is refused."""
    with pytest.raises(StorageError, match="not a valid path"):
        _write(_model({"../x": ("weights", b"x")}))


def test_a_text_of_the_record_replaces_its_file() -> None:
    """A new template is written in place of the file that held the old one."""
    files: dict[str, tuple[FileRole, bytes]] = {**FILES, "chat_template.jinja": ("template", b"old")}
    model = msgspec.structs.replace(_model(files), template=TemplateText(kind="jinja", text="new"))
    found = _read(*_write(model), files)
    assert found.template is not None
    assert found.template.text == "new"
    assert [file.digest for file in found.files_of("template")] == [digest_of(b"new")]


def test_gguf_files_without_paths_get_some() -> None:
    """Their roles come back from the paths; a Go template is a file of its own."""
    roles: list[FileRole] = ["weights", "projector", "adapter", "adapter", "draft"]
    files = tuple(
        ModelFile(role=role, media_type="", digest=digest_of(bytes([number])), size_bytes=1)
        for number, role in enumerate(roles)
    )
    model = Model(format="gguf", files=files, template=TemplateText(kind="go", text="{{ .Prompt }}"))
    manifest, small = _write(model)
    found = ModelPackFormat().read(manifest, {digest_of(text): text for text in small})
    assert [(file.role, file.path) for file in found.files] == [
        ("weights", "model.gguf"),
        ("projector", "mmproj.gguf"),
        ("adapter", "adapter.gguf"),
        ("adapter", "adapter-2.gguf"),
        ("draft", "draft.gguf"),
        ("template", "chat_template.gotmpl"),
    ]
    assert found.template == model.template

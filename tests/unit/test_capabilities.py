"""Capabilities: what a model can do, judging by its config, weights, projector and template."""

from __future__ import annotations

from typing import Any

import pytest

from corral.core.models.capabilities import derive_capabilities
from corral.core.models.digests import digest_of
from corral.core.models.model import ModelFile, ModelMetadata, StoredModel, TemplateText
from corral.core.models.names import parse_name

_PROJECTOR = ModelFile(role="projector", media_type="", digest=digest_of(b"p"), size_bytes=1)


def _record(**fields: Any) -> StoredModel:
    return StoredModel(name=parse_name("m"), digest=digest_of(b""), size_bytes=0, modified_at=0.0, **fields)


def _metadata(**fields: Any) -> ModelMetadata:
    known: dict[str, Any] = {"architecture": "llama", "file_type": "F16", "parameter_count": 1, "tensor_bytes": 2}
    return ModelMetadata(format="gguf", **{**known, **fields})


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (_metadata(), ("completion",)),
        (_metadata(pooling="mean"), ("embedding",)),
        (_metadata(pooling="rank"), ("rerank",)),
        (_metadata(keys={"llama.vision.block_count": 24, "llama.audio.block_count": 0}), ("completion", "vision")),
        (_metadata(architecture="gptoss"), ("completion", "thinking")),
        (_metadata(chat_template="{% if tools %}{% endif %}"), ("completion", "tools")),
        (_metadata(chat_template="{{ '<think>' }}{{ '</think>' }}"), ("completion", "thinking")),
        (_metadata(chat_template="{{ '<think>' }}"), ("completion",)),
        (None, ()),
    ],
)
def test_weights_speak(metadata: ModelMetadata | None, expected: tuple[str, ...]) -> None:
    """Without a manifest's template, capabilities follow from pooling, encoders, the architecture and the template in
    the weights.
    """
    assert derive_capabilities(_record(), metadata, None) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ .Prompt }}", ("completion",)),
        ("{{- if .Tools }}{{ end }}", ("completion", "tools")),
        ("{{ if and $.Suffix .Prompt }}{{ end }}", ("completion", "insert")),
        ("{{ range .Messages }}<t>{{ .Thinking }}</t>{{ end }}", ("completion", "thinking")),
        ("{{ range .Messages }}{{ .Thinking }}{{ end }}", ("completion",)),
        (".Tools outside of braces, and {{ .ToolsX }}", ("completion",)),
    ],
)
def test_a_go_template_speaks_instead_of_the_weights_own(text: str, expected: tuple[str, ...]) -> None:
    """The manifest's template decides by the fields that it uses; the Jinja template in the weights no longer
    counts."""
    record = _record(template=TemplateText(kind="go", text=text))
    assert derive_capabilities(record, _metadata(chat_template="tools <think></think>"), None, True) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (None, ("completion", "vision")),
        ({}, ("completion", "vision")),
        ({"clip.has_audio_encoder": True, "clip.has_vision_encoder": False}, ("completion", "audio")),
        ({"clip.has_audio_encoder": True, "clip.has_vision_encoder": True}, ("completion", "vision", "audio")),
    ],
)
def test_a_projector_sees_or_hears(keys: dict[str, Any] | None, expected: tuple[str, ...]) -> None:
    """A projector means vision, unless its header says that it is only for audio."""
    projector = None if keys is None else _metadata(architecture="clip", keys=keys)
    assert derive_capabilities(_record(files=(_PROJECTOR,)), _metadata(), projector) == expected


def test_the_config_adds_to_the_rest_in_a_fixed_order() -> None:
    """Capabilities listed in the manifest are believed; unknown ones come last."""
    record = _record(capabilities=("zoom", "thinking", "completion", "dance"))
    assert derive_capabilities(record, _metadata(), None) == ("completion", "thinking", "dance", "zoom")

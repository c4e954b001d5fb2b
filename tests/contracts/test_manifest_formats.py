"""Our manifest formats against the contract of their port, and the contract against formats that break it."""

from __future__ import annotations

from typing import ClassVar

import pytest
from msgspec.structs import replace

from corral.adapters.formats.docker_model import DockerModelFormat
from corral.adapters.formats.modelpack import ModelPackFormat
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.plugins.testing.broken.manifests import MANIFESTS, SoundManifestFormat
from corral.plugins.testing.manifest_format import ManifestFormatContract
from tests.contracts.broken_parts import failures, promises

_FILE = ManifestFormatContract.model.files[0]


class TestOllama(ManifestFormatContract):
    @pytest.fixture
    def manifest_format(self) -> OllamaManifestFormat:
        return OllamaManifestFormat()


class TestDockerModel(ManifestFormatContract):
    @pytest.fixture
    def manifest_format(self) -> DockerModelFormat:
        return DockerModelFormat()


class TestModelPack(ManifestFormatContract):
    model: ClassVar = replace(ManifestFormatContract.model, files=(replace(_FILE, path="model.gguf"),))

    @pytest.fixture
    def manifest_format(self) -> ModelPackFormat:
        return ModelPackFormat()


@pytest.mark.parametrize("made", [SoundManifestFormat, *MANIFESTS])
def test_a_broken_format_fails_its_own_test_alone(made: type[SoundManifestFormat]) -> None:
    """A sound format passes them all."""
    assert failures(ManifestFormatContract, made()) == ({made.breaks} if made.breaks else set())


def test_every_promise_has_a_format_that_breaks_it() -> None:
    """Every test of the contract is failed by some broken format."""
    assert {made.breaks for made in MANIFESTS} == promises(ManifestFormatContract)

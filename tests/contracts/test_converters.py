"""Every converter against the converters' suite, and the suite against converters that break it."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.adapters.converters.ctransformers.spec import CONVERTER as CTRANSFORMERS
from corral.adapters.converters.onnx.spec import CONVERTER as ONNX
from corral.adapters.converters.safetensors.spec import CONVERTER as GGUF
from corral.adapters.engines.llama_cpp.quantizing.spec import CONVERTER as QUANTIZE
from corral.core.specs.engines import LocalFile
from corral.plugins.testing import ConverterContract
from corral.plugins.testing.broken.converters import CONVERTERS, SoundConverter
from tests.checkpoints.tiny import write_tiny_checkpoint
from tests.contracts.broken_parts import Outcomes, outcomes_of, promises
from tests.tiny_llama import write_tiny_llama

_SUITE = """
import pytest
from corral.plugins import LocalFile
from corral.plugins.testing import ConverterContract
from corral.plugins.testing.broken.converters import CONVERTERS, REFUSED, SoundConverter

class Files(ConverterContract):
    refused = REFUSED

    @pytest.fixture
    def files(self, tmp_path):
        (tmp_path / "model").write_text("Polly!")
        return (LocalFile(role="weights", path=str(tmp_path / "model")),)

for made in (SoundConverter, *CONVERTERS):
    globals()[f"Test{made.__name__}"] = type(f"Test{made.__name__}", (Files,), {"spec": made.spec()})
"""

_OTHERS = (b"", b"GGUF", b"not a model at all\n" * 100, bytes(5000))


@pytest.mark.native
class TestCtransformers(ConverterContract):
    spec = CTRANSFORMERS
    refused = _OTHERS

    @pytest.fixture
    def files(self, smollm2: Path) -> tuple[LocalFile, ...]:
        return (LocalFile(role="weights", path=str(smollm2)),)


@pytest.mark.native
class TestOnnx(ConverterContract):
    spec = ONNX
    refused = _OTHERS

    @pytest.fixture
    def files(self, smollm2: Path) -> tuple[LocalFile, ...]:
        pytest.importorskip("onnx")
        return (LocalFile(role="weights", path=str(smollm2)),)


class TestQuantize(ConverterContract):
    spec = QUANTIZE
    refused = _OTHERS

    @pytest.fixture
    def files(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalFile, ...]:
        pytest.importorskip("llama_cpp")
        file = tmp_path_factory.getbasetemp() / "tiny-to-quantize.gguf"
        return (LocalFile(role="weights", path=str(file if file.exists() else write_tiny_llama(file))),)


class TestGguf(ConverterContract):
    spec = GGUF
    refused = _OTHERS

    @pytest.fixture
    def files(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalFile, ...]:
        folder = tmp_path_factory.getbasetemp() / "tiny-checkpoint"
        files = (folder if folder.exists() else write_tiny_checkpoint(folder, files=2)).iterdir()
        return tuple(LocalFile(role="weights", path=str(file), name=file.name) for file in files)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Names of tests by outcome, for each converter: one run of pytest over all of them."""
    return outcomes_of(_SUITE, tmp_path_factory.mktemp("converters"))


@pytest.mark.parametrize("made", [SoundConverter, *CONVERTERS])
def test_a_broken_converter_fails_its_own_test_alone(outcomes: Outcomes, made: type[SoundConverter]) -> None:
    """A sound converter passes them all."""
    found = outcomes[f"Test{made.__name__}"]
    assert found["failed"] == ({made.breaks} if made.breaks else set())
    assert found["passed"] | found["failed"] == promises(ConverterContract)


def test_every_promise_has_a_converter_that_breaks_it() -> None:
    """Every test of the contract is failed by some broken converter."""
    assert {made.breaks for made in CONVERTERS} == promises(ConverterContract)

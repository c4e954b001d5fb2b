"""Every converter against the converters' suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.adapters.converters.ctransformers.spec import CONVERTER as CTRANSFORMERS
from corral.adapters.converters.onnx.spec import CONVERTER as ONNX
from corral.core.specs.engines import LocalFile
from corral.plugins.testing import ConverterContract

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

"""Weights of other types: every type that llama.cpp offers, importance matrices, and what is refused."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from corral import Corral
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.adapters.engines.llama_cpp.native_context import ContextParams, ContextSize
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.adapters.engines.llama_cpp.quantizing.importance_matrix import read_importance_matrix
from corral.adapters.engines.llama_cpp.quantizing.quantize import quantize
from corral.adapters.engines.llama_cpp.quantizing.spec import CONVERTER, QuantizeParameters
from corral.adapters.formats.gguf.reader import GgufReader
from corral.api.library import AsyncCorral
from corral.core.conversion.quantizing import IMPORTANCE_MATRIX
from corral.core.conversion.results import quantized_name
from corral.core.errors import InvalidModelFile, InvalidRequest, NotFound
from corral.core.models.names import parse_name
from corral.core.models.quantization_types import NEEDS_MATRIX, QuantizationType, quantization_type
from corral.core.ports.sources import FetchProgress
from corral.core.random_access import RandomAccessFile
from corral.core.specs.converters import ConvertRequest
from corral.core.specs.engines import LocalFile
from corral.plugins.testing.gguf import TensorEntry, gguf_bytes
from tests.checkpoints.tiny import write_tiny_checkpoint
from tests.tiny_llama import write_tiny_llama

LONG = bool(os.environ.get("CORRAL_ALL_TYPES"))
SLOW_TYPES = {kind for kind in QuantizationType if kind.startswith(("IQ1", "IQ2", "IQ3"))}
"""The quantizer spends twenty seconds on tables for them, even for a tiny model."""
_MATRICES = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def corral(tmp_path: Path) -> Iterator[Corral]:
    with Corral(models=tmp_path / "store", config="", engine="llama-cpp") as corral:
        yield corral


def made(source: Path, folder: Path, kind: QuantizationType, matrix: Path | None = None) -> Path:
    """The file, made by the job's function in this process."""
    files = [LocalFile(role="weights", path=str(source))]
    if matrix is not None:
        files.append(LocalFile(role="other", path=str(matrix), name=IMPORTANCE_MATRIX))
    request = ConvertRequest(
        model="tiny", files=tuple(files), folder=str(folder), parameters={"type": kind, "requantize": False}
    )
    result = quantize(request, lambda share: None)
    return folder / result.files[0].path


def matrix_bytes(value: float = 1.0, columns: int = 256) -> bytes:
    """A matrix in the older format, for the one layer of a tiny model."""
    names = [f"blk.0.{name}.weight".encode() for name in sorted(_MATRICES)]
    entries = (
        struct.pack(f"<i{len(name)}sii{columns}f", len(name), name, 2, columns, *[value] * columns) for name in names
    )
    return struct.pack("<i", len(names)) + b"".join(entries)


@pytest.mark.parametrize("kind", [kind for kind in QuantizationType if LONG or kind not in SLOW_TYPES])
def test_every_type_loads_and_answers(kind: QuantizationType, tiny: Path, tmp_path: Path) -> None:
    """The file has the type, and llama.cpp computes with it; where a matrix is needed, it is refused without one."""
    matrix = tmp_path / "matrix.dat"
    matrix.write_bytes(matrix_bytes())
    if kind in NEEDS_MATRIX:
        with pytest.raises(InvalidRequest, match=f"{kind} needs an importance matrix"):
            made(tiny, tmp_path, kind)
    file = made(tiny, tmp_path, kind, matrix)
    with RandomAccessFile(file) as source:
        assert GgufReader().read(source).file_type == kind
    model = LlamaModel(str(file), gpu_layers=0, main_gpu=None, use_mmap=None, on_progress=lambda share: None)
    try:
        params = ContextParams(batch=32, flash_attention=0, kv_cache_type="f16")
        context = LlamaContext(model, params, ContextSize(1, 32), threads=1)
        try:
            batch = Batch(8)
            batch.fill_chunk([1, 5, 6], 0, 0, last=True)
            assert context.decode(batch) == 0
            assert np.isfinite(context.logits(2)).all()
        finally:
            context.close()
    finally:
        model.close()


def test_a_type_that_needs_a_matrix_only_for_some_models(tiny: Path, tmp_path: Path) -> None:
    """What only llama.cpp knows comes out in the same words."""
    with pytest.raises(InvalidRequest, match="IQ3_XXS needs an importance matrix"):
        made(tiny, tmp_path, QuantizationType.IQ3_XXS)


def test_both_formats_of_matrices(tmp_path: Path) -> None:
    """The older format divides by the calls, GGUF by the counts of each row; columns nobody counted weigh the same."""
    old, new = tmp_path / "old.dat", tmp_path / "new.gguf"
    old.write_bytes(matrix_bytes(6.0))
    found = read_importance_matrix(old)
    assert set(found) == {f"blk.0.{name}.weight" for name in _MATRICES}
    assert found["blk.0.attn_q.weight"].tolist() == [3.0] * 256
    sums = np.array([[8, 4], [5, 5]], "<f4")
    counts = np.array([[4], [0]], "<f4")
    new.write_bytes(
        gguf_bytes(
            {"general.type": "imatrix"},
            (
                TensorEntry("a.weight.in_sum2", (2, 2), 0, sums.nbytes, sums.tobytes()),
                TensorEntry("a.weight.counts", (1, 2), 0, counts.nbytes, counts.tobytes()),
            ),
        )
    )
    assert read_importance_matrix(new)["a.weight"].tolist() == [2.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 64, b"GGUF", matrix_bytes()[:-5], struct.pack("<i", 1) + struct.pack("<i", -4), gguf_bytes()],
)
def test_what_is_no_matrix(data: bytes, tmp_path: Path) -> None:
    """A file of another kind, or one that is cut off, is refused, and so is one that is not there."""
    file = tmp_path / "matrix"
    file.write_bytes(data)
    with pytest.raises(InvalidModelFile, match="matrix"):
        read_importance_matrix(file)
    with pytest.raises(NotFound, match="no importance matrix"):
        read_importance_matrix(tmp_path / "absent")


def test_a_matrix_of_another_model(tiny: Path, tmp_path: Path) -> None:
    """llama.cpp's reason is told, and names what does not fit."""
    matrix = tmp_path / "matrix.dat"
    matrix.write_bytes(matrix_bytes(columns=128))
    with pytest.raises(InvalidRequest, match="matrix"):
        made(tiny, tmp_path, QuantizationType.IQ2_XS, matrix)


def test_a_new_model(corral: Corral, tiny: Path) -> None:
    """It has its own weights, the texts of its source, and says what it was made from; the source stays."""
    corral.import_model(tiny, name="tiny:f16")
    source = corral.create("tiny:f16", "tiny:f16", system="Be brief.", parameters={"temperature": 0})
    seen: list[str] = []
    assert corral.quantize("tiny:f16", "q8_0", "tiny:named").name.short == "tiny:named"
    record = corral.quantize("tiny:f16", "q8_0", on_progress=lambda progress: seen.append(progress.status))
    assert (record.name.short, record.quantization, record.system) == ("tiny:q8_0", "Q8_0", "Be brief.")
    assert source.weights is not None
    assert record.converted_from == source.weights.digest
    assert corral.show("tiny:q8_0").record.converted_from == source.weights.digest
    assert "quantizing F16 model to Q8_0" in seen
    assert corral.show("tiny:f16").record.quantization == "F16"


def test_a_draft_is_quantized_as_well(corral: Corral, tiny: Path) -> None:
    """Apart from the model, whose weights stay what they are."""
    record = corral.create("tiny:drafted", files=tiny, draft_files=tiny, draft_quantize="q8_0")
    assert record.quantization == "F16"
    [weights], [draft] = record.files_of("weights"), record.files_of("draft")
    assert draft.size_bytes < weights.size_bytes


def test_what_a_new_model_is_refused_for(corral: Corral, tiny: Path, tmp_path: Path) -> None:
    """The types of the weights, the name, and a missing model are checked, and nothing is left behind."""
    corral.import_model(tiny, name="tiny:f16")
    corral.quantize("tiny:f16", "q8_0", name="small")
    blobs = set((tmp_path / "store" / "blobs").iterdir())
    with pytest.raises(InvalidRequest, match="only supported for F16"):
        corral.quantize("small", "q4_0")
    with pytest.raises(InvalidRequest, match="is the model itself"):
        corral.quantize("small", "q4_0", name="small", requantize=True)
    with pytest.raises(InvalidRequest, match="unsupported quantization type NONE"):
        corral.quantize("small", "none")
    with pytest.raises(InvalidRequest, match="IQ1_S needs an importance matrix"):
        corral.quantize("small", "iq1_s", requantize=True)
    with pytest.raises(NotFound):
        corral.quantize("absent", "q4_0")
    assert set((tmp_path / "store" / "blobs").iterdir()) == blobs
    assert corral.quantize("small", "q4_k", requantize=True).quantization == "Q4_K_M"


def test_a_folder_is_not_quantized(corral: Corral, tmp_path: Path) -> None:
    """Only weights in GGUF are: that is said, and not what to do with quantized weights."""
    (tmp_path / "minilm").mkdir()
    (tmp_path / "minilm" / "model.onnx").write_bytes(b"\x08\x08")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "minilm" / name).write_text("{}")
    corral.import_model(tmp_path / "minilm")
    for requantize in (False, True):
        with pytest.raises(InvalidRequest) as refused:
            corral.quantize("minilm", "q8_0", requantize=requantize)
        assert refused.value.remedy == "these weights are in another format: only weights in GGUF can be quantized"


def test_a_checkpoint_and_a_type_that_needs_a_matrix(corral: Corral, tmp_path: Path) -> None:
    """The error names the command that takes a matrix, for the type that was asked for."""
    with pytest.raises(InvalidRequest) as refused:
        corral.import_model(write_tiny_checkpoint(tmp_path / "tiny"), quantize="iq2_xxs")
    assert "corral quantize MODEL IQ2_XXS --imatrix FILE" in str(refused.value.remedy)


def test_a_damaged_file_is_refused_before_native_code_sees_it(tiny: Path, tmp_path: Path) -> None:
    """A file that ends within its weights does not reach llama.cpp."""
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.read_bytes()[:-4096])
    with pytest.raises(InvalidModelFile):
        made(cut, tmp_path, QuantizationType.Q8_0)


@pytest.mark.parametrize(
    ("source", "kind", "name"),
    [
        ("m:q4_1", "Q8_0", "m:q8_0"),
        ("m", "Q8_0", "m:q8_0"),
        ("m:3b-instruct-q4_K_M", "F16", "m:3b-instruct-f16"),
        ("m:3b", "Q4_K_M", "m:3b-q4_k_m"),
        ("example.com/a/m:f16", "BF16", "example.com/a/m:bf16"),
    ],
)
def test_the_name_of_a_quantized_model(source: str, kind: str, name: str) -> None:
    """The type takes the place of the one in the tag, or is added to it."""
    assert quantized_name(parse_name(source), kind).short == name


def test_names_of_types() -> None:
    """Any case, and llama.cpp's short names; all else is none."""
    assert quantization_type("q4_k") is QuantizationType.Q4_K_M
    assert quantization_type(" Iq4_nl") is QuantizationType.IQ4_NL
    assert quantization_type("q4") is None
    assert set(QuantizationType) > NEEDS_MATRIX
    assert CONVERTER.parameters is QuantizeParameters


def test_cancelling_ends_the_process_and_leaves_nothing(tmp_path: Path, tiny: Path) -> None:
    """No blob, no name, no scratch folder; the model can be quantized afterwards."""

    async def check() -> None:
        async with AsyncCorral(models=tmp_path / "store", config="") as corral:
            await corral.import_model(tiny, name="tiny:f16")
            blobs = set((tmp_path / "store" / "blobs").iterdir())
            begun = asyncio.Event()

            def told(progress: FetchProgress) -> None:
                if progress.status.startswith("quantizing"):
                    begun.set()

            task = asyncio.create_task(corral.quantize("tiny:f16", "q8_0", on_progress=told))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [one.name.short for one in await corral.list(derived=True)] == ["tiny:f16"]
            assert set((tmp_path / "store" / "blobs").iterdir()) == blobs
            assert [path for path in (tmp_path / "store" / ".corral" / "work").glob("*") if path.is_dir()] == []
            assert (await corral.quantize("tiny:f16", "q8_0")).quantization == "Q8_0"

    asyncio.run(check())

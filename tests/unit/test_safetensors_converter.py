"""Checkpoints in safetensors become the GGUF files that llama.cpp's own converter would make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from corral.adapters.converters.safetensors.convert import convert
from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.adapters.formats.gguf.vocabulary import read_vocabulary
from corral.core.specs.converters import ConvertRequest, ConvertResult
from corral.core.specs.engines import LocalFile
from tests.checkpoints.from_gguf import write_llama_checkpoint


def request_of(folder: Path, target: Path, **parameters: str) -> ConvertRequest:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    target.mkdir(exist_ok=True)
    return ConvertRequest(
        model="m",
        files=tuple(
            LocalFile(role="weights", path=str(file), name=file.relative_to(folder).as_posix()) for file in files
        ),
        folder=str(target),
        parameters=parameters,
    )


def converted(folder: Path, target: Path, **parameters: str) -> tuple[Path, ConvertResult]:
    shares: list[float] = []
    result = convert(request_of(folder, target, **parameters), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    return target / result.files[0].path, result


@pytest.mark.native
@pytest.mark.parametrize("files", [1, 3])
def test_a_llama_comes_back_bit_for_bit(shallow: Callable[[str], Path], tmp_path: Path, files: int) -> None:
    """A GGUF that is written as a checkpoint, in one file or in several, and converted has the same tensors again."""
    original = shallow("F16")
    checkpoint = write_llama_checkpoint(original, tmp_path / "checkpoint", dtype="F16", files=files)
    path, result = converted(checkpoint, tmp_path / "out")
    assert (result.quantization, result.context_length) == ("F16", 8192)
    with GgufTensors(original) as ours, GgufTensors(path) as theirs:
        assert sorted(theirs.names) == sorted(ours.names)
        for name in ours.names:
            assert (theirs.type(name), theirs.shape(name)) == (ours.type(name), ours.shape(name))
            assert np.array_equal(theirs.blocks(name, 0, 1 << 30), ours.blocks(name, 0, 1 << 30)), name
        expected = dict(ours.pairs)
        found = {key: theirs.pairs.get(key) for key in expected if not key.startswith(("tokenizer.", "general."))}
        assert found == {key: expected[key] for key in found}
    before, after = read_vocabulary(original), read_vocabulary(path)
    assert before is not None
    assert after is not None
    assert (after.texts, after.merges, after.pre) == (before.texts, before.merges, before.pre)
    assert [after.kind(index) for index in range(len(after.texts))] == [
        before.kind(index) for index in range(len(before.texts))
    ]
    assert (after.named, after.add_bos) == (before.named, before.add_bos)

"""The plugin of docs/plugins.md that adds an architecture of checkpoints runs unchanged."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.adapters.formats.safetensors.tensors import SafetensorsFiles
from corral.core.errors import Unsupported
from corral.core.models.names import parse_name
from corral.plugins.assembly import assemble, load_plugins, read_layers
from tests.checkpoints.files import write_safetensors
from tests.checkpoints.tiny import write_tiny_checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
NAMES = {
    "model.norm": "model.last_norm",
    "input_layernorm": "norm_1",
    "post_attention_layernorm": "norm_2",
    "self_attn.": "attn.",
    "_proj": "",
}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both modules of the page can be imported, and the plugin is installed."""
    section = PAGE.read_text("utf-8").partition("\n## Checkpoints of other architectures\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    folder = tmp_path / "site"
    folder.mkdir()
    for name, block in zip(("corral_parrot_family", "corral_parrot_gguf"), blocks, strict=True):
        (folder / f"{name}.py").write_text(block)
    metadata = folder / "corral_parrot_gguf-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: corral_parrot_gguf\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[corral]\nparrot_gguf = corral_parrot_gguf\n")
    monkeypatch.syspath_prepend(str(folder))
    yield
    for name in ("corral_parrot_family", "corral_parrot_gguf"):
        sys.modules.pop(name, None)


def parrot(folder: Path) -> Path:
    """A tiny checkpoint as the page describes it."""
    write_tiny_checkpoint(folder, architecture="ParrotForCausalLM")
    path = folder / "model.safetensors"
    with SafetensorsFiles({path.name: path}) as tensors:
        found = {}
        for name in tensors.names:
            renamed = name
            for usual, own in NAMES.items():
                renamed = renamed.replace(usual, own)
            found[renamed] = tensors.numbers(name)
    write_safetensors(path, found)
    return folder


@pytest.mark.usefixtures("plugin")
def test_a_plugin_adds_an_architecture(tmp_path: Path) -> None:
    """Its checkpoints are imported like any other, in a process of its own; the family says what becomes of them."""
    folder = parrot(tmp_path / "parrot")

    async def work() -> Path:
        layers = read_layers("", environment={}, flags={"store": str(tmp_path / "store")})
        assembly = await assemble(layers, manager=load_plugins(layers))
        try:
            catalog = assembly.runtime.catalog
            record = await catalog.import_file(folder, parse_name("polly"))
            assert record.weights is not None
            assert (record.family, record.quantization) == ("qwen2", "F16")
            with pytest.raises(Unsupported, match='unsupported architecture "CrowForCausalLM"') as caught:
                await catalog.import_file(write_tiny_checkpoint(tmp_path / "crow", architecture="CrowForCausalLM"))
            assert "ParrotForCausalLM" in str(caught.value.remedy)
            (file,) = catalog.local_files(record)
            return Path(file.path)
        finally:
            await assembly.aclose()

    weights = asyncio.run(work())
    module = import_module("corral_parrot_family")
    assert module.PARROT.architecture == "qwen2"
    path = folder / "model.safetensors"
    with GgufTensors(weights) as ours, SafetensorsFiles({path.name: path}) as theirs:
        assert ours.pairs["general.architecture"] == "qwen2"
        norm = theirs.numbers("model.layers.0.norm_1.weight")
        assert np.array_equal(ours.dequantized("blk.0.attn_norm.weight"), norm + 1)
        rows = theirs.numbers("model.layers.0.attn.q.weight")
        assert np.allclose(ours.dequantized("blk.0.attn_q.weight"), rows, rtol=1e-3, atol=1e-4)

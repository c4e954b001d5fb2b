"""Two models side by side: divergence against an independent computation, and what cannot be compared."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from corral import Corral
from corral.adapters.engines.llama_cpp.comparing.compare import compare, sample_text
from corral.adapters.engines.llama_cpp.comparing.divergence import chunks_of, compare_rows
from corral.adapters.engines.llama_cpp.comparing.speeds import race
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.adapters.engines.llama_cpp.native_context import ContextParams, ContextSize
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.adapters.engines.llama_cpp.quantizing.quantize import quantize
from corral.core.errors import InvalidRequest, NotFound, OutOfMemory, Unsupported
from corral.core.specs.comparisons import CompareRequest, Comparison
from corral.core.specs.converters import ConvertRequest
from corral.core.specs.engines import LocalFile
from tests.tiny_llama import write_tiny_llama

_TEXT = "the quick brown fox, and the lazy dog. " * 8  # 312 letters, which the vocabulary has


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def smaller(tiny: Path) -> Path:
    """The same model as Q4_0."""
    request = ConvertRequest(
        model="tiny",
        files=(LocalFile(role="weights", path=str(tiny)),),
        folder=str(tiny.parent),
        parameters={"type": "Q4_0"},
    )
    return tiny.parent / quantize(request, lambda share: None).files[0].path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(_TEXT)
    return file


def compared(reference: Path, candidate: Path, text: Path, *, speed: bool = False, **more: float) -> Comparison:
    reference_file, candidate_file = (LocalFile(role="weights", path=str(path)) for path in (reference, candidate))
    request = CompareRequest(
        reference=reference_file, candidate=candidate_file, text=str(text), speed=speed, enough_kl=more.get("enough_kl")
    )
    return compare(request, lambda share: None)


def softmaxed(path: Path, tokens: list[int]) -> np.ndarray:
    """The probabilities after each token, from one decode of all of them, in float64."""
    model = LlamaModel(str(path), gpu_layers=0, main_gpu=None, use_mmap=None, on_progress=lambda share: None)
    params = ContextParams(batch=512, flash_attention=0, kv_cache_type="f16")
    context = LlamaContext(model, params, ContextSize(1, 512), threads=1)
    try:
        batch = Batch(512)
        batch.fill_chunk(tokens, 0, 0, last=True)
        batch.wanted[: len(tokens)] = 1
        assert context.decode(batch) == 0
        rows = np.stack([context.logits(row) for row in range(len(tokens))]).astype(np.float64)
    finally:
        context.close()
        model.close()
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return found


def test_divergence_is_what_numpy_computes(tiny: Path, smaller: Path, text: Path) -> None:
    """Perplexities, KL divergence and equal tops over the second half of the text agree with a computation over the
    logits of the whole text."""
    found = compared(tiny, smaller, text)
    letters = "abcdefghijklmnopqrstuvwxyz .,"
    tokens = [1, 259 + 26, *(259 + letters.index(letter) for letter in _TEXT)]  # BOS and SPM's leading space
    p, q = softmaxed(tiny, tokens), softmaxed(smaller, tokens)
    rows = range(len(tokens) // 2, len(tokens) - 1)
    kl = np.mean([np.sum(p[row] * np.log(p[row] / q[row])) for row in rows])
    assert found.positions == len(rows)
    assert found.kl_divergence == pytest.approx(kl, rel=0.02)
    assert found.kl_divergence > 1e-4
    for figures, predicted in ((found.reference, p), (found.candidate, q)):
        expected = np.exp(-np.mean([np.log(predicted[row][tokens[row + 1]]) for row in rows]))
        assert figures.perplexity == pytest.approx(expected, rel=0.01)
    assert found.same_top == pytest.approx(np.mean(p[rows].argmax(axis=1) == q[rows].argmax(axis=1)), abs=0.03)


@pytest.mark.native
@pytest.mark.slow
def test_divergence_is_what_llama_perplexity_finds(requantized: Callable[[str], Path], tmp_path: Path) -> None:
    """Of SmolLM2 with real text, within 5 %, where llama.cpp's own program is installed."""
    program = shutil.which("llama-perplexity")
    if program is None:
        pytest.skip("needs llama-perplexity, one of llama.cpp's tools, in PATH")
    text, logits = tmp_path / "text", tmp_path / "logits"
    text.write_text(sample_text()[:4500], "utf-8")  # two chunks
    reference = requantized("F16")

    def said(model: Path, *more: str) -> str:
        common = ["-f", str(text), "-c", "512", "-t", "2", "--kl-divergence-base", str(logits)]
        ran = subprocess.run(
            [program, "-m", str(model), *common, *more], capture_output=True, text=True, timeout=300, check=True
        )
        return ran.stdout + ran.stderr

    said(reference)
    for kind in ("Q8_0", "Q4_K_M"):
        mean = re.search(r"Mean +KLD: +([0-9.]+)", said(requantized(kind), "--kl-divergence"))
        assert mean is not None
        assert compared(reference, requantized(kind), text).kl_divergence == pytest.approx(float(mean[1]), rel=0.05)


def test_a_model_with_itself(tiny: Path, text: Path) -> None:
    """Nothing differs, and all speeds are measured."""
    found = compared(tiny, tiny, text, speed=True)
    assert (found.kl_divergence, found.same_top) == (0.0, 1.0)
    assert found.reference.perplexity == found.candidate.perplexity
    for figures in (found.reference, found.candidate):
        assert min(figures.prompt_per_s or 0, figures.decode_per_s or 0, figures.eight_per_s or 0) > 0
        assert figures.exact is not None


def test_what_is_too_far_off_is_not_measured_to_the_end(tiny: Path, smaller: Path, text: Path) -> None:
    """Above the divergence that is enough, no speeds are measured."""
    assert compared(tiny, smaller, text, speed=True, enough_kl=1e-9).candidate.prompt_per_s is None


def test_rows_by_hand() -> None:
    """Two rows of three tokens, with the numbers of a calculator."""
    p = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]], np.float32)) + 7
    q = np.log(np.array([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6]], np.float32)) - 3
    found = compare_rows(p, q, [0, 2])
    assert found.kl == pytest.approx(0.25 * np.log(2), rel=1e-5)
    assert (found.positions, found.same_top) == (2, 1)
    assert found.reference_nll == pytest.approx(-np.log(0.5) - np.log(0.6), rel=1e-5)
    assert found.candidate_nll == pytest.approx(-np.log(0.25) - np.log(0.6), rel=1e-5)


def test_chunks_of_a_text() -> None:
    """Only whole ones, each of which begins with BOS."""
    assert chunks_of(range(10, 17), 3, 1) == [[1, 11, 12], [1, 14, 15]]
    assert chunks_of(range(3), 3, None) == [[0, 1, 2]]


class _Racer:
    """Takes a second for all that it does, and ten if it is disturbed, which happens in every turn but one."""

    exactness = type("Exact", (), {"exact": True})

    def __init__(self) -> None:
        self._turns = 0

    def prompt_tokens(self) -> int:
        return 64

    def prompt_s(self, tokens: int) -> float:
        return self._took()

    def decode_s(self, streams: int) -> float:
        return self._took()

    def _took(self) -> float:
        self._turns += 1
        return 1.0 if 7 <= self._turns <= 9 else 10.0


def test_the_fastest_of_several_turns_counts() -> None:
    """A machine that is busy at times changes nothing."""
    for speeds in race([_Racer(), _Racer()], lambda share: None):  # type: ignore[list-item]
        assert (speeds.prompt, speeds.decode, speeds.eight) == (64.0, 1.0, 8.0)


def test_what_cannot_be_compared(tiny: Path, tmp_path: Path) -> None:
    """A text that is missing, too short or no text."""
    short, broken = tmp_path / "short", tmp_path / "broken"
    short.write_text("a b c")
    broken.write_bytes(b"\xff\xfe\xfd" * 100)
    with pytest.raises(InvalidRequest, match="the text has 7 tokens"):
        compared(tiny, tiny, short)
    with pytest.raises(InvalidRequest, match="no text in UTF-8"):
        compared(tiny, tiny, broken)
    with pytest.raises(NotFound, match="there is no text"):
        compared(tiny, tiny, tmp_path / "absent")


def test_models_of_different_vocabularies(tiny: Path, tmp_path: Path, text: Path) -> None:
    """Their predictions are about different tokens."""
    other = write_tiny_llama(tmp_path / "other.gguf", letters="zyxwvutsrqponmlkjihgfedcba .,")
    with pytest.raises(InvalidRequest, match="different vocabularies"):
        compared(tiny, other, text)


def test_the_text_that_comes_along() -> None:
    """It is long enough for several chunks of any vocabulary."""
    assert len(sample_text().split()) > 1500


@pytest.fixture
def corral(tmp_path: Path, tiny: Path, smaller: Path) -> Iterator[Corral]:
    with Corral(models=tmp_path / "store", config="") as corral:
        corral.import_model(tiny, name="tiny:f16")
        corral.import_model(smaller, name="tiny:q4_0")
        yield corral


def test_the_library_compares_in_another_process(corral: Corral, text: Path) -> None:
    """The result is that of the job, progress goes up to 1, and a model without an engine is refused."""
    told: list[float] = []
    found = corral.compare("tiny:f16", "tiny:q4_0", text=text, speed=False, on_progress=told.append)
    assert json.loads(json.dumps(found.positions)) > 100
    assert found.kl_divergence > 0
    assert told[-1] == 1.0
    assert told == sorted(told)
    corral.create("far", "x", remote_host="http://localhost:1")
    with pytest.raises(Unsupported, match="no engine can compare"):
        corral.compare("tiny:f16", "far")


def test_two_models_that_do_not_fit_into_memory(
    tmp_path: Path, tiny: Path, smaller: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused before a process is started that would take the memory of others; one alone would fit."""
    monkeypatch.setattr("corral.plugins.assembly.free_memory", lambda: {"cpu": 15 << 20})
    with Corral(models=tmp_path / "store", config="") as corral:
        corral.import_model(tiny, name="tiny:f16")
        corral.import_model(smaller, name="tiny:q4_0")
        begun: list[float] = []
        with pytest.raises(OutOfMemory, match=r"tiny:f16 with tiny:q4_0 takes about \d+ MiB .* only 15 MiB is free"):
            corral.compare("tiny:f16", "tiny:q4_0", on_progress=begun.append)
        assert begun == []

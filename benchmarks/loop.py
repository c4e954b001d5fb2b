"""An engine's step loop without a server, compared with its library alone: what Python costs between two decodes."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import msgspec

from corral.core.ports.engines import StepEngine
from corral.core.requests.outputs import Token
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, SamplingParams
from corral.core.specs.engines import LoadRequest, LocalFile

__all__ = ("LoopReport", "measure_loop")

_PROMPT = (TextPart(text="Once upon a time"),)
_TOGETHER = 4


class LoopReport(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens per second in each round: of one stream, of four together, of the library alone.

    `bench` is empty if llama-bench was not given.
    """

    loop: list[float]
    together: list[float]
    bench: list[float]

    @property
    def ratio(self) -> float | None:
        """One stream divided by the library alone."""
        return median(self.loop) / median(self.bench) if self.bench else None

    @property
    def gain(self) -> float:
        """Four streams divided by one."""
        return median(self.together) / median(self.loop)


def measure_loop(model: Path, *, threads: int, tokens: int, rounds: int, bench: str | None) -> LoopReport:
    """Measure all in turn: a GGUF on llama.cpp, a folder on ONNX Runtime GenAI and with a bare loop over its generator.

    `bench` is llama-bench's command; it is run with the GGUF, threads and tokens. Raises `RuntimeError`.
    """
    alone: Callable[[], float] | None = None
    if model.is_dir():
        engine, alone = _onnx_genai(model, threads, tokens)
    else:
        engine = _llama_cpp(model, threads, tokens)
        if bench is not None:
            alone = partial(_llama_bench, bench, model, threads, tokens)
    report = LoopReport(loop=[], together=[], bench=[])
    try:
        _decode(engine, 16)
        for _ in range(rounds):
            report.loop.append(_decode(engine, tokens))
            if alone is not None:
                report.bench.append(alone())
            report.together.append(_decode(engine, tokens, _TOGETHER))
    finally:
        engine.close()
    return report


def _decode(engine: StepEngine, tokens: int, streams: int = 1) -> float:
    """Tokens per second of all streams, after each has had its first."""
    sampling = SamplingParams(temperature=0.0, ignore_eos=True)
    for request_id in range(streams):
        engine.add_request(request_id, CompletionRequest(prompt=_PROMPT, sampling=sampling), None)
    begun: set[int] = set()
    while len(begun) < streams:
        begun.update(request_id for request_id, output in engine.step() if isinstance(output, Token))
    began = time.perf_counter()
    count = 0
    while count < tokens * streams:
        count += sum(isinstance(output, Token) for _, output in engine.step())
    took = time.perf_counter() - began
    for request_id in range(streams):
        engine.abort_request(request_id)
    return count / took


def _llama_cpp(gguf: Path, threads: int, tokens: int) -> StepEngine:
    from corral.adapters.engines.llama_cpp.loader import load

    files = (LocalFile(role="weights", path=str(gguf)),)
    options = {"num_ctx": tokens + 64, "num_thread": threads, "num_parallel": _TOGETHER}
    return load(LoadRequest(model=gguf.name, files=files, load_options=options), lambda share: None)


def _llama_bench(command: str, gguf: Path, threads: int, tokens: int) -> float:
    arguments = ["-m", str(gguf), "-t", str(threads), "-p", "0", "-n", str(tokens), "-r", "1", "-o", "json"]
    done = subprocess.run([*shlex.split(command), *arguments], capture_output=True, text=True, check=False)
    try:
        return float(json.loads(done.stdout)[0]["avg_ts"])
    except (ValueError, LookupError) as error:
        raise RuntimeError(f"{command} printed no figure: {done.stderr.strip()[-500:]}") from error


def _onnx_genai(folder: Path, threads: int, tokens: int) -> tuple[StepEngine, Callable[[], float]]:
    """The engine, and how fast a loop of `generate_next_token` alone is on the same model."""
    from corral.adapters.engines.onnx_genai.loader import load

    files = tuple(LocalFile(role="config", path=str(path), name=path.name) for path in folder.iterdir())
    num_ctx = tokens + 64
    options = {"num_ctx": num_ctx, "num_thread": threads, "num_parallel": _TOGETHER}
    engine = load(LoadRequest(model=folder.name, files=files, load_options=options), lambda share: None)
    assert engine.tokenizer is not None
    [prompt] = engine.tokenizer.encode([_PROMPT])

    import numpy as np
    import onnxruntime_genai as og  # after `load`, which switches off its telemetry

    config = og.Config(str(folder))
    session = {"intra_op_num_threads": threads}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    model = og.Model(config)
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=num_ctx)
    generator = og.Generator(model, params)

    def bare() -> float:
        generator.rewind_to(0)  # the engine reuses its generators, too
        generator.append_tokens(np.array(prompt, np.int32))
        generator.generate_next_token()  # from the prompt's logits, without computing anything
        began = time.perf_counter()
        for _ in range(tokens):
            generator.generate_next_token()
        return tokens / (time.perf_counter() - began)

    return engine, bare

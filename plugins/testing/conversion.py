"""A converter without native code, and an engine that takes nothing but its results: for tests of conversions."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Literal

import msgspec

from corral.adapters.engines.fake import SPEC as FAKE
from corral.adapters.engines.fake import FakeEngine, FakeLoadOptions
from corral.core.errors import InvalidModelFile
from corral.core.models.model import Model, ModelMetadata
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.converters import ConvertedFile, ConverterSpec, ConvertRequest, ConvertResult
from corral.core.specs.engines import Derivation, Device, EngineSpec, LoadRequest, Match

__all__ = ("CONVERTER", "ENGINE", "StampParameters", "convert", "devices", "load")

_STAMP = b"STAMPED "


class StampParameters(msgspec.Struct, frozen=True, kw_only=True):
    """How the conversion goes. `wait_for`: a file whose appearance it waits for; `pid_file`: where it leaves its id."""

    result: Literal["file", "folder", "nothing", "no weights", "outside", "link", "missing", "twice"] = "file"
    trouble: Literal["", "error", "exception", "crash"] = ""
    text: str = ""
    wait_for: str = ""
    pid_file: str = ""


def convert(request: ConvertRequest, on_progress: OnLoadProgress) -> ConvertResult:
    """Puts a stamp before the weights, and does what else the parameters say."""
    parameters = msgspec.convert(request.parameters, StampParameters)
    folder = Path(request.folder)
    [weights] = request.files
    (folder / "model.stamped").write_bytes(_STAMP + parameters.text.encode() + Path(weights.path).read_bytes())
    (folder / "genai_config.json").write_text('{"model": {"type": "llama", "context_length": 128}}')
    if parameters.pid_file:
        part = Path(f"{parameters.pid_file}.part")
        part.write_text(str(os.getpid()))
        part.rename(parameters.pid_file)
    on_progress(0.1)
    while parameters.wait_for and not os.path.exists(parameters.wait_for):
        time.sleep(0.01)
    if parameters.trouble == "error":
        raise InvalidModelFile("the weights are of the wrong colour")
    if parameters.trouble == "exception":
        raise ZeroDivisionError("no weights to divide by")
    if parameters.trouble == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    on_progress(0.9)
    return ConvertResult(files=_files(folder, parameters), format="stamped", quantization="INT4")


def _files(folder: Path, parameters: StampParameters) -> tuple[ConvertedFile, ...]:
    stamped, config = ConvertedFile(path="model.stamped"), ConvertedFile(path="genai_config.json", role="config")
    match parameters.result:
        case "file":
            return (stamped,)
        case "folder":
            return (stamped, config)
        case "nothing":
            return ()
        case "no weights":
            return (config,)
        case "twice":
            return (stamped, stamped)
        case "missing":
            return (ConvertedFile(path="elsewhere"),)
        case "outside":
            (folder.parent / "outside").write_text("not here")
            return (ConvertedFile(path="../outside"),)
        case "link":
            (folder / "link").symlink_to("/etc/hostname")
            return (ConvertedFile(path="link"),)


def _takes(model: Model, metadata: ModelMetadata | None) -> Match:
    if metadata is None or metadata.format != "gguf":
        return Match(score=0, reason="stamps GGUF weights only")
    return Match(score=100, reason="GGUF can be stamped")


CONVERTER = ConverterSpec(
    name="stamp",
    summary="puts a stamp on a model, for tests",
    convert=f"{__name__}:convert",
    match=_takes,
    parameters=StampParameters,
)


def load(request: LoadRequest, on_progress: OnLoadProgress) -> FakeEngine:
    """Raises `InvalidModelFile` for weights without the stamp, or damaged ones."""
    on_progress(0.5)
    [weights] = (file for file in request.files if file.role == "weights")
    data = Path(weights.path).read_bytes()
    if not data.startswith(_STAMP) or b"DAMAGE" in data:
        raise InvalidModelFile(f"{request.model} has no valid stamp")
    return FakeEngine(msgspec.convert(request.load_options, FakeLoadOptions))


def devices() -> list[Device]:
    """A device that no machine has."""
    return [Device(kind="abacus", name="Abacus of ten rods", total_bytes=10_000, free_bytes=5_000)]


def _match(model: Model, metadata: ModelMetadata | None, options: FakeLoadOptions) -> Match:
    if model.format == "stamped":
        return Match(score=100, reason="runs stamped models")
    taken = _takes(model, metadata)
    if taken.score == 0:
        return taken
    return Match(score=60, reason="runs it once it is stamped", derive=Derivation(converter=CONVERTER.name))


ENGINE = EngineSpec(
    name="stamped",
    summary="made-up text for stamped models, for tests",
    form="step",
    load=f"{__name__}:load",
    match=_match,
    estimate=FAKE.estimate,
    runners=("thread", "process"),
    devices=f"{__name__}:devices",
    load_options=FakeLoadOptions,
    fits=FAKE.fits,
)

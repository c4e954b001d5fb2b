"""The frames between a server and a child process: their types and their encoding.

A frame is four bytes of length (big-endian) and one MessagePack value of a tagged union. `Load` is the first frame down
and `Ready` the first important frame up; both carry the protocol version. `Load` names the request and output types of
plugins by import path, so that both ends can decode them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import or_
from typing import Any, Generic, Literal, TypeVar, cast

import msgspec

from corral.core.error_translation import no_unicode
from corral.core.errors import ErrorInfo
from corral.core.ports.running import ModelInfo
from corral.core.requests.outputs import Delta, Embedded, Finished, Output, Ranked, Started
from corral.core.requests.prompts import Prompt
from corral.core.requests.requests import ChatRequest, CompletionRequest, EmbedRequest, Request, RerankRequest
from corral.core.specs.engines import LoadRequest

__all__ = (
    "PROTOCOL_VERSION",
    "Abort",
    "Add",
    "Close",
    "DownFrame",
    "Fatal",
    "FrameReader",
    "GiveUp",
    "Heartbeat",
    "InfoChanged",
    "JobDone",
    "JobFrame",
    "JobUpFrame",
    "Load",
    "LoadShare",
    "Log",
    "Ready",
    "Result",
    "Step",
    "TokenizerCall",
    "UpFrame",
    "down_decoder",
    "encode",
    "job_decoder",
    "job_up_decoder",
    "load_decoder",
    "up_decoder",
)

PROTOCOL_VERSION = 1

RequestT = TypeVar("RequestT")
OutputT = TypeVar("OutputT")


class _Frame(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Encoded as an array, without field names."""


# ── Down ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Load(_Frame, frozen=True, tag=True, array_like=True):
    """Everything the child needs. `path` is the parent's ``sys.path``, so that its plugins are found."""

    protocol: int
    engine: str
    form: str
    load: str
    request: LoadRequest
    heartbeat_s: float
    log_level: int
    install_hint: str | None = None
    path: tuple[str, ...] = ()
    request_types: tuple[str, ...] = ()
    output_types: tuple[str, ...] = ()


class Add(_Frame, Generic[RequestT], frozen=True, tag=True, array_like=True):
    request_id: int
    request: RequestT


class Abort(_Frame, frozen=True, tag=True, array_like=True):
    request_id: int


class TokenizerCall(_Frame, frozen=True, tag=True, array_like=True):
    """A call to the tokenizer, answered by a `Result` with the same id.

    `most` and `cut` as in `RunningModel.tokenize`.
    """

    call_id: int
    method: Literal["tokenize", "detokenize", "pieces"]
    prompts: tuple[Prompt, ...] = ()
    ids: tuple[int, ...] = ()
    most: int | None = None
    cut: bool = False


class GiveUp(_Frame, frozen=True, tag=True, array_like=True):
    """Cancels a `TokenizerCall`."""

    call_id: int


class Close(_Frame, frozen=True, tag=True, array_like=True):
    """Free everything and exit."""


class JobFrame(_Frame, frozen=True, tag=True, array_like=True):
    """A function to call, instead of a model to load; the only frame down.

    `kind` is the import path of the request's type.
    """

    protocol: int
    function: str
    log_level: int
    path: tuple[str, ...]
    kind: str | None = None
    request: bytes = b""


# ── Up ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


class LoadShare(_Frame, frozen=True, tag=True, array_like=True):
    share: float


class Ready(_Frame, frozen=True, tag=True, array_like=True):
    protocol: int
    info: ModelInfo


class InfoChanged(_Frame, frozen=True, tag=True, array_like=True):
    """What the loaded model says of itself from now on."""

    info: ModelInfo


class Step(_Frame, Generic[OutputT], frozen=True, tag=True, array_like=True):
    """The outcomes of one step, for all requests. `Finished`, `Embedded`, `Ranked`, `ErrorInfo` end their request."""

    outcomes: list[tuple[int, OutputT]]


class Result(_Frame, frozen=True, tag=True, array_like=True):
    call_id: int
    ids: list[tuple[int, ...]] = []
    text: str = ""
    error: ErrorInfo | None = None
    pieces: list[bytes] = []


class Log(_Frame, frozen=True, tag=True, array_like=True):
    level: int
    message: str


class Heartbeat(_Frame, frozen=True, tag=True, array_like=True):
    """`step_s` is how long the current step has taken so far."""

    step_s: float


class Fatal(_Frame, frozen=True, tag=True, array_like=True):
    """The engine could not be loaded, or failed; the child exits."""

    error: ErrorInfo


class JobDone(_Frame, frozen=True, tag=True, array_like=True):
    """The function's result, as MessagePack."""

    answer: bytes


DownFrame = Add[Request] | Abort | TokenizerCall | GiveUp | Close
UpFrame = Ready | InfoChanged | LoadShare | Step[Output | ErrorInfo] | Result | Log | Heartbeat | Fatal
JobUpFrame = LoadShare | Log | JobDone | Fatal

_REQUESTS: tuple[type[Request], ...] = (CompletionRequest, ChatRequest, EmbedRequest, RerankRequest)
_OUTPUTS: tuple[type[Output], ...] = (Started, Delta, Embedded, Ranked, Finished)


def _union(kinds: Iterable[Any]) -> Any:
    return reduce(or_, dict.fromkeys(kinds))


def load_decoder() -> msgspec.msgpack.Decoder[Load]:
    """Decodes the first frame down, before the plugin's types are known."""
    return msgspec.msgpack.Decoder(Load)


def down_decoder(request_types: Sequence[type[Request]] = ()) -> msgspec.msgpack.Decoder[DownFrame]:
    """Decodes every other frame down."""
    add: Any = Add
    kinds = add[_union((*_REQUESTS, *request_types))] | Abort | TokenizerCall | GiveUp | Close
    return cast("msgspec.msgpack.Decoder[DownFrame]", msgspec.msgpack.Decoder(kinds))


def up_decoder(output_types: Sequence[type[Output]] = ()) -> msgspec.msgpack.Decoder[UpFrame]:
    """Decodes frames up."""
    step: Any = Step
    steps = step[_union((*_OUTPUTS, *output_types, ErrorInfo))]
    kinds = steps | Ready | InfoChanged | LoadShare | Result | Log | Heartbeat | Fatal
    return cast("msgspec.msgpack.Decoder[UpFrame]", msgspec.msgpack.Decoder(kinds))


def job_decoder() -> msgspec.msgpack.Decoder[JobFrame]:
    """Decodes the only frame down to a job's child."""
    return msgspec.msgpack.Decoder(JobFrame)


def job_up_decoder() -> msgspec.msgpack.Decoder[JobUpFrame]:
    """Decodes frames up from a job's child."""
    kinds: Any = JobUpFrame
    return cast("msgspec.msgpack.Decoder[JobUpFrame]", msgspec.msgpack.Decoder(kinds))


_encoder = msgspec.msgpack.Encoder()


def encode(frame: _Frame) -> bytes:
    """Encode a frame, preceded by its length. Thread-safe. Raises `InvalidRequest` for invalid Unicode."""
    buffer = bytearray(4)
    try:
        _encoder.encode_into(frame, buffer, 4)
    except UnicodeEncodeError as error:
        raise no_unicode(error) from error
    buffer[:4] = (len(buffer) - 4).to_bytes(4, "big")
    return bytes(buffer)


class FrameReader:
    """Splits a byte stream into frames, in a buffer that is reused."""

    __slots__ = ("_buffer", "_end", "_size_bytes", "_start", "_view")

    def __init__(self, size_bytes: int = 1 << 16) -> None:
        self._size_bytes = size_bytes
        self._buffer = bytearray(size_bytes)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    def buffer(self) -> memoryview:
        """Return the buffer to read into; never empty. Frames returned earlier are no longer valid."""
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._buffer) > self._size_bytes:  # after a big frame, return to the usual size
                self._buffer = bytearray(self._size_bytes)
                self._view = memoryview(self._buffer)
        elif self._end == len(self._buffer) or self._start:
            rest = self._buffer[self._start : self._end]
            needed = 4 + int.from_bytes(rest[:4], "big") if len(rest) >= 4 else 4
            if needed > len(self._buffer):
                self._buffer = bytearray(needed)
                self._view = memoryview(self._buffer)
            self._view[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        return self._view[self._end :]

    def filled(self, size_bytes: int) -> list[memoryview]:
        """Return the frames (without their length) that are complete after `size_bytes` more bytes."""
        view, start = self._view, self._start
        self._end = end = self._end + size_bytes
        frames = []
        while end - start >= 4:
            stop = start + 4 + int.from_bytes(view[start : start + 4], "big")
            if stop > end:
                break
            frames.append(view[start + 4 : stop])
            start = stop
        self._start = start
        return frames

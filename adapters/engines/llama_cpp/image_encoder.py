"""Turns image files into what stands for them in a prompt, and remembers what was used last."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence

from corral.adapters.engine_kit.image_decoding import decoded_image
from corral.adapters.engines.llama_cpp.image_cells import ImageCells, ImagePiece
from corral.adapters.engines.llama_cpp.memory_needs import REMEMBERED_BYTES
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.adapters.engines.llama_cpp.projector import Projector
from corral.core.errors import EngineDied, LoadFailed

__all__ = ("ImageEncoder", "open_encoder")


class ImageEncoder:
    """Thread-safe. Decodes and encodes one image at a time, so that a request with many leaves memory and processor
    time to others.
    """

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, Sequence[ImagePiece]] = OrderedDict()
        self._size_bytes = 0
        self._closed = False

    def pieces(self, data: bytes) -> Sequence[ImagePiece]:
        """Raises `InvalidRequest` for a bad image, `EngineError`, and `EngineDied` after `close`."""
        digest = hashlib.sha256(data).digest()
        found = self._remembered(digest)
        if found is None:
            with self._turn:
                found = self._remembered(digest) or self._encoded(data, digest)
        return found

    def close(self) -> None:
        """Waits for an image that is being encoded."""
        with self._turn:
            self._closed = True
            self._projector.close()

    def _remembered(self, digest: bytes) -> Sequence[ImagePiece] | None:
        with self._lock:
            if digest in self._known:
                self._known.move_to_end(digest)
            return self._known.get(digest)

    def _encoded(self, data: bytes, digest: bytes) -> Sequence[ImagePiece]:
        if self._closed:
            raise EngineDied("the model was unloaded")
        pieces = self._projector.encode(decoded_image(data), int.from_bytes(digest, "big"))
        with self._lock:
            self._known[digest] = pieces
            self._size_bytes += _size_bytes(pieces)
            while self._size_bytes > REMEMBERED_BYTES:
                self._size_bytes -= _size_bytes(self._known.popitem(last=False)[1])
        return pieces


def _size_bytes(pieces: Sequence[ImagePiece]) -> int:
    return sum(piece.vectors.nbytes for piece in pieces if isinstance(piece, ImageCells))


def open_encoder(path: str, model: LlamaModel, *, gpu: bool, threads: int) -> tuple[ImageEncoder | None, str]:
    """The encoder of a projector file; otherwise None, and the reason: the model's texts need no projector."""
    try:
        projector = Projector(path, model, gpu=gpu, threads=threads)
    except LoadFailed as error:
        return None, error.message
    if not projector.sees:
        projector.close()
        return None, "its projector is not for images"
    return ImageEncoder(projector), ""

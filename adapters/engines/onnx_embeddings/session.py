"""An ONNX session of a sentence encoder: token ids in, one vector for each text out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from corral.adapters.engines.onnx_embeddings.folder import EncoderFolder
from corral.adapters.engines.onnx_embeddings.pooling import normalised, pooled
from corral.core.errors import CorralError, EngineError, InvalidModelFile, InvalidOption, LoadFailed, OutOfMemory

__all__ = ("EncoderSession", "providers")

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_SENTENCES = "sentence_embedding"
_SCORES = "logits"
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_ERRORS_ONLY = 3  # of ONNX Runtime's levels
_REMOTE = "AzureExecutionProvider"  # sends the input to a server
# Names of its exceptions for invalid files; they have no common class but Exception.
_BAD_FILE = frozenset({"InvalidProtobuf", "InvalidGraph", "NoSuchFile", "InvalidArgument", "Fail"})


def providers() -> Sequence[str]:
    """The execution providers that ONNX Runtime can use here, by its names; the first is its own choice."""
    found: list[str] = onnxruntime.get_available_providers()
    return [name for name in found if name != _REMOTE]


class EncoderSession:
    """One thread owns it. `poolings` is empty if the graph does the pooling. If it `ranks`, it scores pairs."""

    def __init__(self, folder: EncoderFolder, *, threads: int, provider: str) -> None:
        """`threads` 0 is ONNX Runtime's choice.

        Raises `InvalidModelFile`, `InvalidOption`, `OutOfMemory`, `LoadFailed`.
        """
        self.provider = _provider(provider)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Threads that spin between operations would take the cores from everything else.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with _errors(f"{folder.weights.name} of {folder.model!r}", loading=True):
            self._session = onnxruntime.InferenceSession(str(folder.weights), options, providers=[self.provider])
        self._inputs = _checked_inputs(self._session.get_inputs(), folder.model)
        self._output, rank = _chosen_output(self._session.get_outputs(), folder)
        self.poolings = (folder.poolings or ("mean",)) if rank == 3 else ()
        self.ranks = self._output == _SCORES
        self._normalise = folder.normalise

    def vectors(
        self, texts: Sequence[Sequence[int]], seconds: Sequence[int] | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """Return the vector of each text, in order, from one run; of a pair of texts, its score. Raises `EngineError`,
        `OutOfMemory`.

        `seconds` says where the second text of each pair begins; None: there are no pairs.
        """
        shape = (len(texts), max(map(len, texts)))
        ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        types = np.zeros(shape, dtype=np.int64)
        for row, second in enumerate(seconds or ()):
            types[row, second : len(texts[row])] = 1
        columns = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        feed = {name: columns[name].astype(kind, copy=False) for name, kind in self._inputs.items()}
        with _errors(f"{len(texts)} texts of at most {shape[1]} tokens", loading=False):
            [output] = self._session.run([self._output], feed)
        rows = np.asarray(output, dtype=np.float32)
        # Row by row and without padding, so that pooling cannot depend on the others.
        found = [
            pooled(rows[row, : len(text)], self.poolings) if self.poolings else rows[row]
            for row, text in enumerate(texts)
        ]
        return [normalised(vector) for vector in found] if self._normalise else found


def _provider(wanted: str) -> str:
    for name in providers():
        if name.lower() in (wanted.lower(), f"{wanted.lower()}executionprovider"):
            return name
    known = ", ".join(name.removesuffix("ExecutionProvider") for name in providers())
    raise InvalidOption(f"provider: there is no {wanted!r} in this ONNX Runtime", f"choose one of {known}")


def _checked_inputs(inputs: Sequence[Any], model: str) -> dict[str, type[Any]]:
    """The integer type of each input. Raises `InvalidModelFile` if this is not a text encoder."""
    strange = [f"{one.name} ({one.type})" for one in inputs if one.name not in _INPUTS or one.type not in _INTEGERS]
    if strange or "input_ids" not in {one.name for one in inputs}:
        raise InvalidModelFile(
            f"model {model!r} has inputs that a sentence encoder does not have: {', '.join(strange) or 'no input_ids'}",
            f"supported inputs: {', '.join(_INPUTS)}, of integers",
        )
    fixed = [f"{one.name} {one.shape}" for one in inputs if any(isinstance(size, int) for size in one.shape)]
    if fixed:
        raise InvalidModelFile(
            f"model {model!r} has a fixed batch or text size: {', '.join(fixed)}",
            "export it with dynamic axes for both",
        )
    return {one.name: _INTEGERS[one.type] for one in inputs}


def _chosen_output(outputs: Sequence[Any], folder: EncoderFolder) -> tuple[str, int]:
    """The name and rank of the output: scores of a reranker, otherwise finished vectors if the graph has them, or
    those of the tokens.
    """
    ranks = {one.name: len(one.shape) for one in outputs}
    if folder.ranks:
        if ranks.get(_SCORES) != 2:
            raise InvalidModelFile(f"model {folder.model!r} is a cross-encoder, but does not return {_SCORES}")
        return _SCORES, 2
    if ranks.get(_SENTENCES) == 2:
        return _SENTENCES, 2
    if folder.may_rank and any(one.name == _SCORES and one.shape[1:] == [1] for one in outputs):
        return _SCORES, 2
    tokens = [name for name, rank in ranks.items() if rank == 3]
    if not tokens:
        raise InvalidModelFile(
            f"model {folder.model!r} returns neither {_SENTENCES} nor token vectors, but {', '.join(ranks)}"
        )
    if folder.more_modules:
        raise InvalidModelFile(
            f"model {folder.model!r} needs steps after its graph that are not supported: "
            f"{', '.join(folder.more_modules)}",
            f"export it with its whole pipeline, so that the graph returns {_SENTENCES}",
        )
    return tokens[0], 3


@contextmanager
def _errors(subject: str, *, loading: bool) -> Iterator[None]:
    try:
        yield
    except CorralError:
        raise
    except Exception as error:
        text = f"ONNX Runtime: {subject}: {' '.join(str(error).split())[:500]}"
        if isinstance(error, MemoryError) or "bad_alloc" in text or "allocate memory" in text:
            raise OutOfMemory(text, "unload other models, or use a smaller one") from error
        if not loading:
            raise EngineError(text) from error
        raise (InvalidModelFile if type(error).__name__ in _BAD_FILE else LoadFailed)(text) from error

"""What the classifier of a cross-encoder says: the log-odds that a document answers the query."""

from __future__ import annotations

import math

import llama_cpp as C
import numpy as np
import numpy.typing as npt

from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.core.errors import InvalidModelFile, Unsupported

__all__ = ("RankHead",)

_SOFTMAX = ("qwen3", "qwen3vl")
"""Architectures whose scores llama.cpp turns into probabilities: of "yes", and of "no"."""

_SMALLEST = 1e-30
"""In place of a probability that has vanished."""


class RankHead:
    """Raises `Unsupported` for a classifier that does not give one score, and `InvalidModelFile` if there is none."""

    def __init__(self, model: LlamaModel) -> None:
        if not model.has_classifier():
            raise InvalidModelFile(
                "the file says that it is a reranker (pooling_type 4), but it has no classifier",
                "convert the model again, from a checkpoint for sequence classification",
            )
        self.outputs = int(C.llama_model_n_cls_out(model.handle))
        self._softmax = model.architecture in _SOFTMAX
        if self.outputs != 1 and not (self._softmax and self.outputs == 2):
            raise Unsupported(
                f"the model's classifier has {self.outputs} labels, but a reranker gives one score",
                "use a model that was made for reranking",
            )

    def score(self, row: npt.NDArray[np.float32]) -> float:
        if not self._softmax:
            return float(row[0])
        yes = float(row[0])
        no = float(row[1]) if self.outputs == 2 else 1.0 - yes
        return math.log(max(yes, _SMALLEST)) - math.log(max(no, _SMALLEST))

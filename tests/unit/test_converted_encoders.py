"""Sentence encoders from checkpoints: tokens and vectors are those of the original, of tiny BERTs and of MiniLM.

The forward pass is in `tests.reference_models`; tokens are compared with Hugging Face's tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from tokenizers import Tokenizer

from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.api.library import Corral
from corral.core.requests.outputs import EngineEmbedded
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import EmbedRequest
from corral.core.requests.vectors import rows
from tests.checkpoints.converting import converted
from tests.checkpoints.families import bert_weights
from tests.checkpoints.files import Floats, read_safetensors, write_checkpoint
from tests.checkpoints.texts import HARD_TEXTS, WRITINGS
from tests.checkpoints.word_pieces import vocabulary_text, word_piece_tokenizer
from tests.contracts.llama_engines import loaded_engine
from tests.reference_models.bert import sentence_vectors

SENTENCES = (Path(__file__).parents[1] / "data" / "sentences.txt").read_text("utf-8").splitlines()
_CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 128,
    "type_vocab_size": 2,
}


class Encoder:
    """A tiny checkpoint. `prefix` begins the names of its tensors, `by_lines` writes its vocabulary as a
    ``vocab.txt`` only."""

    def __init__(
        self, *, lowercase: bool, pooling: Literal["mean", "cls"], prefix: str = "", by_lines: bool = False
    ) -> None:
        self.tokenizer = word_piece_tokenizer(lowercase=lowercase)
        self.pooling: Literal["mean", "cls"] = pooling
        self.config: dict[str, Any] = {**_CONFIG, "vocab_size": len(self.tokenizer["model"]["vocab"])}
        self.tensors = bert_weights(self.config)
        self._prefix = prefix
        self._others: dict[str, bytes | Mapping[str, Any] | list[Any]] = {
            "tokenizer_config.json": {"do_lower_case": lowercase},
            "modules.json": [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}],
            "1_Pooling/config.json": {f"pooling_mode_{'cls_token' if pooling == 'cls' else 'mean_tokens'}": True},
        }
        if by_lines:
            self._others["vocab.txt"] = vocabulary_text(lowercase=lowercase)
        else:
            self._others["tokenizer.json"] = self.tokenizer

    def write(self, folder: Path) -> Path:
        named: dict[str, Floats] = {f"{self._prefix}{name}": tensor for name, tensor in self.tensors.items()}
        return write_checkpoint(folder, self.config, named, self._others)


ENCODERS = {
    "lower case": Encoder(lowercase=True, pooling="mean"),
    "upper case, [CLS]": Encoder(lowercase=False, pooling="cls", prefix="bert."),
    "vocab.txt": Encoder(lowercase=True, pooling="cls", by_lines=True),
}


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return ENCODERS[request.param]


@pytest.fixture(scope="module")
def engine(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppEngine]:
    checkpoint = encoder.write(tmp_path_factory.mktemp("checkpoint"))
    engine = loaded_engine(converted(checkpoint, tmp_path_factory.mktemp("gguf")), options={})
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference(encoder: Encoder) -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(encoder.tokenizer))
    tokenizer.no_truncation()
    return tokenizer


def test_tokens(engine: LlamaCppEngine, reference: Tokenizer) -> None:
    """They are those of the checkpoint's own tokenizer, in every writing."""
    assert engine.tokenizer is not None
    for text in (*HARD_TEXTS, *WRITINGS):
        [found] = engine.tokenizer.encode([(TextPart(text=text),)])
        assert list(found) == reference.encode(text).ids, text


def test_vectors(encoder: Encoder, engine: LlamaCppEngine, reference: Tokenizer) -> None:
    """Their directions are those of the forward pass, but for llama.cpp's table of GELU."""
    texts = [*HARD_TEXTS, *WRITINGS]
    engine.add_request(1, EmbedRequest(inputs=tuple((TextPart(text=text),) for text in texts)), None)
    outputs = []
    while engine.has_unfinished_requests():
        outputs += [output for _, output in engine.step()]
    [answer] = outputs
    assert isinstance(answer, EngineEmbedded)
    tokens = [reference.encode(text).ids for text in texts]
    config = {**encoder.config, "hidden_act": "gelu_table"}
    expected = sentence_vectors(config, encoder.tensors, tokens, pooling=encoder.pooling)
    found = np.asarray(list(rows(answer.vectors)), np.float64)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.native
def test_minilm(minilm: Path, tmp_path: Path) -> None:
    """all-MiniLM-L6-v2 in F16: on 100 sentences, each vector has a cosine above 0.999 to NumPy's in float64."""
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    tokens = [tokenizer.encode(sentence).ids for sentence in SENTENCES]
    config = json.loads((minilm / "config.json").read_bytes())
    expected = sentence_vectors(config, read_safetensors(minilm / "model.safetensors"), tokens)
    with Corral(models=tmp_path, config="", engine="llama-cpp") as corral:
        record = corral.import_model(minilm, name="minilm")
        embedded = corral.embed("minilm", SENTENCES)
    assert (record.family, record.quantization, record.context_length) == ("bert", "F16", 256)
    assert embedded.usage.prompt_tokens == sum(map(len, tokens))
    assert len(SENTENCES) == 100
    assert (np.asarray(embedded.vectors) * expected).sum(axis=1).min() > 0.999

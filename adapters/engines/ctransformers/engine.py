"""The ctransformers `GeneratorEngine`: completions and embeddings, one request at a time."""

from __future__ import annotations

from collections.abc import Generator

from corral.adapters.engine_kit.admission import admitted, prefilled
from corral.adapters.engine_kit.sampling import LogitsSampler
from corral.adapters.engine_kit.token_choosing import ModelTokens, TokenChooser
from corral.adapters.engines.ctransformers.context import Context
from corral.adapters.engines.ctransformers.tokenizer import TextTokenizer
from corral.core.errors import InvalidRequest, PromptTooLong, Unsupported
from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import TokenMask
from corral.core.requests.outputs import EngineEmbedded, EngineFinished, EngineOutput, Vectors
from corral.core.requests.requests import CompletionRequest, EmbedRequest, Request

__all__ = ("CtransformersEngine",)

Outputs = Generator[EngineOutput | None, None, None]


class CtransformersEngine:
    """Created by `loader.load`; one thread owns it. A context that is full ends an answer: it cannot be shifted."""

    def __init__(self, context: Context, tokenizer: TextTokenizer, info: ModelInfo) -> None:
        self._context = context
        self._tokenizer = tokenizer
        self._info = info
        vocabulary = tokenizer.vocabulary()
        self._tokens = ModelTokens.of(
            vocabulary,
            size=min(len(vocabulary.pieces), context.vocabulary_size),
            control_id=tokenizer.control_id,
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def tokenizer(self) -> TextTokenizer:
        return self._tokenizer

    def run(self, request: Request, mask: TokenMask | None) -> Outputs:
        if isinstance(request, CompletionRequest):
            return self._complete(request, mask)
        if isinstance(request, EmbedRequest) and "embedding" in self._info.tasks:
            return self._embed(request)
        raise Unsupported(f"this model does not accept a {type(request).__name__}")

    def close(self) -> None:
        self._context.close()

    def _complete(self, request: CompletionRequest, mask: TokenMask | None) -> Outputs:
        context, tokenizer = self._context, self._tokenizer
        [ids] = tokenizer.encode([request.prompt])
        prompt = admitted(request, ids, self._info.context_length or 0)
        num_ctx = prompt.num_ctx
        sampler = LogitsSampler(
            request.sampling,
            vocabulary_size=self._tokens.size,
            num_ctx=num_ctx,
            encode=tokenizer.text_ids,
            decode_piece=tokenizer.piece,
            ends=self._tokens.ends,
            mask=mask,
        )
        chooser = TokenChooser(request, sampler, self._tokens)
        cached = context.begin(prompt.ids, request.caller.principal.prefix_scope)
        yield from context.prefill(prompt.ids)
        yield prefilled(request, prompt, cached=cached, shifts=False)
        sampler.remember(prompt.ids)
        while True:
            token, token_id, ended = chooser.choose(context.logits())
            yield token
            if ended or context.used >= num_ctx:
                yield EngineFinished(reason="stop" if ended else "length")
                return
            context.append(token_id)

    def _embed(self, request: EmbedRequest) -> Outputs:
        """Embed with the last token's hidden state, which is what llama.cpp does for models without a pooling type."""
        most = self._info.context_length or 0
        limit = min(request.num_ctx or most, most)
        rows, total = list[bytes](), 0
        dimensions = 0
        for ids in self._tokenizer.encode(request.inputs):
            if not ids:
                raise InvalidRequest("the input is empty, and this model adds no tokens of its own", "omit it")
            if len(ids) > limit and not request.truncate:
                raise PromptTooLong(f"an input of {len(ids)} tokens is longer than the context of {limit}")
            taken = ids[:limit]
            self._context.begin(taken)
            yield from self._context.prefill(taken)
            vector = self._context.embedding().astype("<f4")
            dimensions = len(vector)
            rows.append(vector.tobytes())
            total += len(taken)
            yield None
        yield EngineEmbedded(vectors=Vectors(dimensions=dimensions, float32=b"".join(rows)), prompt_tokens=total)

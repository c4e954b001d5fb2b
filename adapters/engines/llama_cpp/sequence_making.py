"""Turns a request into a sequence: its text into cells, its sampling options into a sampler."""

from __future__ import annotations

from corral.adapters.engine_kit.admission import admitted
from corral.adapters.engine_kit.sampling.rules import look_back, texts_take_time
from corral.adapters.engine_kit.token_choosing import TokenChooser
from corral.adapters.engines.llama_cpp.dry import DryPrototypes
from corral.adapters.engines.llama_cpp.image_encoder import ImageEncoder
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.adapters.engines.llama_cpp.prompt_cells import PromptCells, prompt_cells
from corral.adapters.engines.llama_cpp.sampler import CandidateArray, Sampler
from corral.adapters.engines.llama_cpp.sequences import LlamaSequence
from corral.adapters.engines.llama_cpp.tokenizer import LlamaTokenizer
from corral.core.requests.prompts import has_media
from corral.core.requests.requests import CompletionRequest

__all__ = ("SequenceMaker",)


class SequenceMaker:
    """`num_ctx` is the most tokens of a request, `most_together` the most cells of an image that see each other."""

    def __init__(
        self,
        *,
        model: LlamaModel,
        tokenizer: LlamaTokenizer,
        encoder: ImageEncoder | None,
        num_ctx: int,
        most_together: int,
        smallest_chunk: int,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._num_ctx = num_ctx
        self._most_together = most_together
        self._smallest_chunk = smallest_chunk
        self._candidates = CandidateArray(model.vocabulary_size)
        self._dry = DryPrototypes(model)
        self._tokens = tokenizer.choices()

    def takes_long(self, request: CompletionRequest) -> bool:
        """Whether `make` takes so long that it should be called in another thread."""
        sampling = request.sampling
        if has_media(request.prompt) or texts_take_time(sampling):
            return True
        if sampling.dry_multiplier <= 0:
            return False
        num_ctx = min(request.context.num_ctx or self._num_ctx, self._num_ctx)
        return not self._dry.has(sampling, look_back(sampling.dry_penalty_last_n, num_ctx))

    def make(self, request: CompletionRequest) -> LlamaSequence:
        """In any thread, also in parallel. Raises `PromptTooLong`, `InvalidOption`, `Unsupported`."""
        scope = request.caller.principal.prefix_scope
        cells = prompt_cells(
            request.prompt,
            self._tokenizer,
            self._encoder,
            smallest_chunk=self._smallest_chunk,
            num_ctx=min(request.context.num_ctx or self._num_ctx, self._num_ctx),
            most_together=self._most_together,
            scope=scope,
        )
        image_tokens = len(cells.keys) - len(cells.text_ids)
        prompt = admitted(request, cells.text_ids, self._num_ctx, image_tokens=image_tokens)
        if not image_tokens and len(prompt.ids) < len(cells.keys):
            cells = PromptCells(list(prompt.ids), smallest_chunk=self._smallest_chunk, scope=scope)
        sampler = Sampler(
            request.sampling,
            model=self._model,
            tokenizer=self._tokenizer,
            ends=sorted(self._tokens.ends),
            num_ctx=prompt.num_ctx,
            candidates=self._candidates,
            dry=self._dry,
        )
        return LlamaSequence(request, prompt, cells, sampler, TokenChooser(request, sampler, self._tokens))

"""Decides, when a model is loaded, whether tokens are guessed, and from what."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from corral.adapters.engine_kit.thread_tuning import ThreadTuner
from corral.adapters.engines.llama_cpp.exactness import Exactness
from corral.adapters.engines.llama_cpp.guess_draft import DraftGuesser, DraftModel, PromptOrDraft, require_same_tokens
from corral.adapters.engines.llama_cpp.guess_exactness import rows_together_are_exact
from corral.adapters.engines.llama_cpp.guess_prompt import PromptLookup
from corral.adapters.engines.llama_cpp.guessing import Guesser, Guessing
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.adapters.engines.llama_cpp.native_context import ContextParams, ContextSize
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.adapters.engines.llama_cpp.spec import LlamaCppOptions
from corral.adapters.engines.llama_cpp.trial_decodes import can_trim
from corral.core.errors import CorralError, InvalidModelFile, InvalidOption
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.engines import LoadRequest

__all__ = ("open_guessing",)

_DRAFT_STREAMS = 4
_DRAFT_BATCH = 64
_NOT_EXACT = (
    "no: several rows are not exactly what each is alone; row_attention may mend that, exact = false allows them"
)


def open_guessing(
    request: LoadRequest,
    options: LlamaCppOptions,
    context: LlamaContext,
    batch: Batch,
    exactness: Exactness,
    tuner: ThreadTuner,
    on_progress: OnLoadProgress,
    *,
    trimmable: bool,
) -> tuple[Guessing | None, str]:
    """What guesses for this model, or None and why nothing does. `context` has as many streams as there may be.

    Raises `InvalidOption` if a draft model is asked for and there is none, and what loading it raises. If it is not
    asked for, one that cannot be used is left out.
    """
    files = {file.role: file.path for file in reversed(request.files)}  # the first of each role
    streams = context.size.streams
    if options.guess == "off":
        return None, "no: switched off"
    if options.guess == "draft" and "draft" not in files:
        raise InvalidOption(
            "guess = draft needs a draft model, and this model has none",
            "create the model with DRAFT in its Modelfile, or use guess = auto",
        )
    if not trimmable:
        return None, "no: its memory cannot be truncated"
    if options.exact and not exactness.exact:
        return None, "no: texts would be even less exact; exact = false allows them"
    # Several rows of one stream are a chunk of a prompt; and with the others, rows are the same only under conditions.
    alike = exactness.rows_are_prompt and not exactness.pair_rows and exactness.most_rows is None
    if options.exact and not (alike and rows_together_are_exact(context, batch, streams)):
        return None, _NOT_EXACT
    left_out = ""
    if "draft" in files and options.guess != "prompt":
        try:
            count = min(streams, _DRAFT_STREAMS)
            drafting = _open_draft(files["draft"], options, context, count, tuner, on_progress)
        except CorralError as error:
            if options.guess == "draft":
                raise
            left_out = f" (not from its draft model: {error})"
        else:
            only = options.guess == "draft"
            size = context.model.vocabulary_size

            def begin(tokens: Sequence[int]) -> Guesser:
                guesser = DraftGuesser(drafting, tokens, limit=size)
                return guesser if only else PromptOrDraft(PromptLookup(tokens), guesser)

            return Guessing(
                begin,
                source="from its draft model" if only else "from prompt and answer, and its draft model",
                close=drafting.close,
                size_bytes=drafting.size_bytes,
            ), ""
    return Guessing(PromptLookup, source=f"from prompt and answer{left_out}"), ""


def _open_draft(
    path: str,
    options: LlamaCppOptions,
    context: LlamaContext,
    streams: int,
    tuner: ThreadTuner,
    on_progress: OnLoadProgress,
) -> DraftModel:
    model = LlamaModel(
        path,
        gpu_layers=0 if options.num_gpu == 0 else 999,
        main_gpu=options.main_gpu,
        use_mmap=options.use_mmap,
        on_progress=lambda share: on_progress(1.0),
    )
    with contextlib.ExitStack() as failed:
        failed.callback(model.close)
        require_same_tokens(context.model, model)
        cells = min(context.num_ctx, model.trained_context or context.num_ctx)
        params = ContextParams(
            batch=_DRAFT_BATCH,
            outputs_per_stream=1,
            flash_attention=0,
            kv_cache_type="f16",
            gpu=options.num_gpu != 0,
        )
        own = LlamaContext(model, params, ContextSize(streams, cells), num_ctx=cells, threads=tuner.threads)
        failed.callback(own.close)
        if not can_trim(own, Batch(_DRAFT_BATCH)):
            reason = "the memory of the draft model cannot be truncated"
            raise InvalidModelFile(reason, "use another, or guess = prompt")
        failed.pop_all()
    return DraftModel(model, own, streams=streams, threads=lambda: tuner.threads)

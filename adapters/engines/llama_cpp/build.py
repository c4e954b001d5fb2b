"""Builds a `LlamaCppEngine` from a `LoadRequest`: weights, streams, and abilities that are found by trying."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import llama_cpp as C
import msgspec

from corral.adapters.engine_kit.thread_counts import most_threads
from corral.adapters.engine_kit.thread_tuning import ThreadTuner
from corral.adapters.engines.llama_cpp.background import BackgroundWork
from corral.adapters.engines.llama_cpp.batching import Completions
from corral.adapters.engines.llama_cpp.context_settings import MAX_STREAMS, ContextSettings
from corral.adapters.engines.llama_cpp.describing import Description
from corral.adapters.engines.llama_cpp.embedder_opening import open_embedder
from corral.adapters.engines.llama_cpp.embedding import LlamaEmbedder
from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.adapters.engines.llama_cpp.exactness import Exactness, measure_exactness
from corral.adapters.engines.llama_cpp.growing import KEPT_S, ContextGrowth
from corral.adapters.engines.llama_cpp.guess_opening import open_guessing
from corral.adapters.engines.llama_cpp.guessing import Guessing
from corral.adapters.engines.llama_cpp.image_encoder import open_encoder
from corral.adapters.engines.llama_cpp.kernel_trace import KernelTrace
from corral.adapters.engines.llama_cpp.memory_needs import projector_bytes
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.adapters.engines.llama_cpp.native_context import ContextSize
from corral.adapters.engines.llama_cpp.native_log import collect_log
from corral.adapters.engines.llama_cpp.native_model import LlamaModel, supports_gpu
from corral.adapters.engines.llama_cpp.no_amx import avoid_amx
from corral.adapters.engines.llama_cpp.prefix_opening import open_tiers
from corral.adapters.engines.llama_cpp.prefix_tiers import PrefixTiers
from corral.adapters.engines.llama_cpp.sequence_making import SequenceMaker
from corral.adapters.engines.llama_cpp.spec import LlamaCppOptions
from corral.adapters.engines.llama_cpp.step_computation import Computation
from corral.adapters.engines.llama_cpp.streams import Streams
from corral.adapters.engines.llama_cpp.tokenizer import LlamaTokenizer
from corral.adapters.engines.llama_cpp.trial_decodes import can_move, can_trim, time_decode
from corral.core.errors import InvalidModelFile
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.running import ModelInfo, Task
from corral.core.specs.engines import LoadRequest

__all__ = ("build_engine",)

_TRIAL_CELLS = 256  # llama.cpp rounds up to this


def build_engine(request: LoadRequest, on_progress: OnLoadProgress) -> LlamaCppEngine:
    """Load the weights and everything around them. On failure, everything that was loaded is freed."""
    options = msgspec.convert(request.load_options, LlamaCppOptions)
    files = {role: [file.path for file in request.files if file.role == role] for role in ("weights", "projector")}
    path = next(iter(files["weights"]), None)
    if path is None:
        raise InvalidModelFile(f"model {request.model!r} has no weights file")
    collect_log()
    gpu = supports_gpu() and options.num_gpu != 0
    layers = options.num_gpu if options.num_gpu >= 0 else 999
    C.llama_backend_init()
    if not options.amx:
        avoid_amx()
    model = LlamaModel(
        path,
        gpu_layers=layers if gpu else 0,
        main_gpu=options.main_gpu,
        use_mmap=options.use_mmap,
        repack=options.repack,
        adapters=[file for file in request.files if file.role == "adapter"],
        on_progress=on_progress,
    )
    with contextlib.ExitStack() as failed:
        failed.callback(model.close)
        builder = _Builder(model, request, options, gpu=gpu, projector=next(iter(files["projector"]), None))
        engine = builder.build(failed, on_progress)
        failed.pop_all()
    return engine


class _Builder:
    """The decisions of one load."""

    def __init__(
        self, model: LlamaModel, request: LoadRequest, options: LlamaCppOptions, *, gpu: bool, projector: str | None
    ) -> None:
        self._model = model
        self._request = request
        self._options = options
        self._gpu = gpu
        self._projector = projector
        self._settings = ContextSettings(model, options, gpu=gpu)
        self._threads = most_threads(options.num_thread)
        self._tuner = ThreadTuner(self._threads, on_cpu=not gpu)
        self._tokenizer = LlamaTokenizer(model)
        self._batch = Batch(max(self._settings.chunk, MAX_STREAMS))

    def build(self, failed: contextlib.ExitStack, on_progress: OnLoadProgress) -> LlamaCppEngine:
        if not self._settings.generates:
            task: Task = "rerank" if self._model.ranks else "embedding"
            info = self._info({task}, set(), {"streams": "none", "exact": "no: it computes texts together"})
            return LlamaCppEngine(
                model=self._model,
                completions=None,
                embedder=self._embedder(None),
                tokenizer=self._tokenizer,
                info=lambda: info,
            )
        settings, options, batch = self._settings, self._options, self._batch
        found = self._abilities(failed, on_progress)
        context, exactness = found.context, found.exactness
        encoder, blind = None, ""
        if self._projector is not None:
            encoder, blind = open_encoder(self._projector, self._model, gpu=self._gpu, threads=self._threads)
        if encoder is not None:
            failed.callback(encoder.close)
        can_shift = found.trimmable and context.can_shift
        streams = Streams(context, context.size.streams, trimmable=found.trimmable, window=self._model.sliding_window)
        tiers = open_tiers(self._request, options, streams, context, exactness.exact, settings.flash_attention)
        growing = self._growing(found, streams, tiers)
        computation = Computation(
            context=context,
            streams=streams,
            batch=batch,
            tuner=self._tuner,
            max_prefill_tokens=min(options.max_prefill_tokens, settings.chunk),
            largest_chunk=settings.chunk,
            exactness=exactness,
            guessing=found.guessing,
        )
        background: list[BackgroundWork] = []
        sequences = SequenceMaker(
            model=self._model,
            tokenizer=self._tokenizer,
            encoder=encoder,
            num_ctx=settings.num_ctx,
            most_together=context.batch,
            smallest_chunk=exactness.smallest_chunk,
        )
        completions = Completions(
            context=context,
            sequences=sequences,
            streams=streams,
            tiers=tiers,
            growing=growing,
            computation=computation,
            can_shift=can_shift,
            background=background,
        )

        # If the size of a piece changes the numbers, it is fixed, so that a text always has the same vector.
        one_size = options.exact and not exactness.exact

        def piece(remaining: int) -> int:
            if one_size:
                return computation.chunk(remaining, computation.fixed_budget)
            budget = computation.budget(answering=completions.busy)
            return computation.chunk(remaining, max(budget, computation.fewest))

        embedder = self._embedder(piece)
        background += [growing.idle, embedder.idle, tiers.idle]
        abilities = {"shift": can_shift, "exact": exactness.exact, "images": encoder is not None}
        features = {"prefix_cache", "logprobs", "seed", "constraints"}
        features |= {name for name, has in abilities.items() if has}
        details = {"exact": exactness.told, "guesses": found.guesses} | ({"images": blind} if blind else {})
        details |= {"attention": "by row"} if settings.attends_by_row else {}
        info = self._info({"completion", "embedding"}, features, details, sees=encoder is not None)
        description = Description(info, settings, lambda: growing.size, growing.largest, tiers.tiers, found.guessing)
        return LlamaCppEngine(
            model=self._model,
            completions=completions,
            embedder=embedder,
            tokenizer=self._tokenizer,
            info=description.info,
            encoder=encoder,
        )

    def _abilities(self, failed: contextlib.ExitStack, on_progress: OnLoadProgress) -> _Abilities:
        """Create the context, and find out what it can do in a small one with as many streams as there may be."""
        settings, batch = self._settings, self._batch
        trace = KernelTrace()
        trial_size = ContextSize(settings.most_streams, _TRIAL_CELLS)
        with contextlib.closing(self._context(trial_size, observer=trace.callback)) as trial:
            on_progress(1.0)  # again and again: each trial takes long if the model is large, and is no stall
            # Before the other trials: on a busy machine they would take many times as long with all threads.
            trial.set_threads(self._tuner.begin(lambda threads: time_decode(trial, batch, threads)))
            on_progress(1.0)
            trimmable = can_trim(trial, batch)
            on_progress(1.0)
            exactness = self._exactness(trial, trace, trimmable=trimmable)
            on_progress(1.0)
            guessing, guesses = open_guessing(
                self._request, self._options, trial, batch, exactness, self._tuner, on_progress, trimmable=trimmable
            )
            if guessing is not None:
                failed.callback(guessing.close)
            on_progress(1.0)
            movable = trimmable and settings.one_rope
            size = self._first_size(movable=movable, pair_rows=exactness.pair_rows)
            if movable:
                context = self._context(size)
                movable = can_move(trial, context, batch)
                if not movable:
                    context.close()
        if not movable:
            context = self._context(self._first_size(movable=False, pair_rows=exactness.pair_rows))
        failed.callback(context.close)
        context.pair_rows = exactness.pair_rows
        on_progress(1.0)
        context.set_threads(self._tuner.threads)
        return _Abilities(context, exactness, trimmable, movable, guessing, guesses)

    def _first_size(self, *, movable: bool, pair_rows: bool) -> ContextSize:
        settings = self._settings
        streams = settings.stream_levels(movable=movable, pair_rows=pair_rows)[0]
        return ContextSize(streams, settings.first_cells(movable=movable, streams=streams))

    def _growing(self, found: _Abilities, streams: Streams, tiers: PrefixTiers) -> ContextGrowth:
        settings = self._settings
        counts = settings.stream_levels(movable=found.movable, pair_rows=found.exactness.pair_rows)

        def allowed(size: ContextSize) -> bool:
            return settings.allowed(size, growing.size, counts[0])

        growing = ContextGrowth(
            context=found.context,
            streams=streams,
            stream_levels=counts,
            cell_levels=settings.cell_levels(movable=found.movable),
            first_cells=settings.first_cells(movable=found.movable, streams=counts[0]),
            allowed=allowed,
            dropped=tiers.keep,
            kept_s=KEPT_S,
        )
        return growing

    def _context(self, size: ContextSize, *, observer: Any = None) -> LlamaContext:
        settings = self._settings
        params = msgspec.structs.replace(settings.params(), observer=observer)
        return LlamaContext(self._model, params, size, num_ctx=settings.num_ctx, threads=self._tuner.threads)

    def _embedder(self, piece: Callable[[int], int] | None) -> LlamaEmbedder:
        return open_embedder(
            self._model, self._settings, self._tokenizer, self._tuner, exact=self._options.exact, piece=piece
        )

    def _exactness(self, trial: LlamaContext, trace: KernelTrace, *, trimmable: bool) -> Exactness:
        def no(reason: str) -> Exactness:
            return Exactness(exact=False, reason=reason)

        if not self._options.exact:
            return no("switched off")
        if self._settings.flash_attention and not self._settings.attends_by_row:
            return no("with flash attention, the order of sums depends on other requests")
        if not trimmable:
            return no("its memory cannot be truncated")
        return measure_exactness(trial, trace, self._batch, trial.size.streams)

    def _info(
        self, tasks: set[Task], features: set[str], details: Mapping[str, str], *, sees: bool = False
    ) -> ModelInfo:
        """Without the contexts' memory. That for embeddings is created when it is needed."""
        projector = os.path.getsize(self._projector) if self._projector and sees else 0
        threads = {"threads": f"up to {self._threads}" if self._threads > 1 else "1"}
        return ModelInfo(
            tasks=frozenset(tasks),
            features=frozenset(features | {"tokenize", "batch"}),
            control_tokens=self._tokenizer.control_tokens(),
            context_length=self._settings.num_ctx,
            parallel=self._settings.most_streams if self._settings.generates else 1,
            longest_token_bytes=self._tokenizer.longest_token_bytes,
            memory_bytes={"gpu" if self._gpu else "cpu": self._model.size_bytes + projector_bytes(projector)},
            details={**self._model.details, **details, **threads},
        )


class _Abilities(NamedTuple):
    """What was found by trying. `movable`: streams can move to contexts of other sizes. `guesses`: why
    nothing does.
    """

    context: LlamaContext
    exactness: Exactness
    trimmable: bool
    movable: bool
    guessing: Guessing | None
    guesses: str

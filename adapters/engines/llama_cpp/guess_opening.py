"""Decides, when a model is loaded, whether tokens are guessed, and from what."""

from __future__ import annotations

from corral.adapters.engines.llama_cpp.exactness import Exactness
from corral.adapters.engines.llama_cpp.guess_exactness import rows_together_are_exact
from corral.adapters.engines.llama_cpp.guess_prompt import PromptLookup
from corral.adapters.engines.llama_cpp.guessing import Guessing
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.adapters.engines.llama_cpp.spec import LlamaCppOptions

__all__ = ("open_guessing",)


def open_guessing(
    options: LlamaCppOptions,
    context: LlamaContext,
    batch: Batch,
    exactness: Exactness,
    *,
    streams: int,
    trimmable: bool,
) -> tuple[Guessing | None, dict[str, str]]:
    """What guesses for this model, and its details for people."""
    if options.guess == "off":
        return None, {"guesses": "no: switched off"}
    if not trimmable:
        return None, {"guesses": "no: its memory cannot be truncated"}
    if options.exact and not exactness.exact:
        return None, {"guesses": "no: texts would be even less exact; exact = false allows them"}
    if options.exact and (exactness.pair_rows or not rows_together_are_exact(context, batch, streams)):
        return None, {"guesses": "no: several rows are not exactly what each is alone; exact = false allows them"}
    return Guessing(PromptLookup), {"guesses": "from prompt and answer, where they win"}

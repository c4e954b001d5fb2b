"""What an engine gets to compare two models, and what it returns."""

from __future__ import annotations

from corral.core.specs.engines import LocalFile
from corral.core.values import Value

__all__ = ("CompareRequest", "Comparison", "ModelFigures")


class CompareRequest(Value, frozen=True, kw_only=True):
    """The weights of two models with one vocabulary, and their adapters. `text` is the path of a text in UTF-8; None:
    the engine's own.

    `speed`: also measure how fast they are. Beyond `enough_kl`, a divergence need not be known exactly, and the
    speed not at all.
    """

    reference: LocalFile
    candidate: LocalFile
    reference_adapters: tuple[LocalFile, ...] = ()
    candidate_adapters: tuple[LocalFile, ...] = ()
    text: str | None = None
    speed: bool = True
    enough_kl: float | None = None


class ModelFigures(Value, frozen=True, kw_only=True):
    """A model's perplexity on the text, its speed in tokens per second (None if it was not measured), and the memory of
    its weights. `exact`: whether its texts depend on nothing but the request, None if that was not measured.

    `prompt_per_s` is for a prompt, `decode_per_s` for one answer, and `eight_per_s` for eight at once, together.
    """

    perplexity: float
    weights_bytes: int
    prompt_per_s: float | None = None
    decode_per_s: float | None = None
    eight_per_s: float | None = None
    exact: bool | None = None


class Comparison(Value, frozen=True, kw_only=True):
    """`kl_divergence` is that of the candidate from the reference: the mean over `positions` of the text, in nats.
    `same_top` is the share of positions at which both find the same token most likely."""

    reference: ModelFigures
    candidate: ModelFigures
    kl_divergence: float
    same_top: float
    positions: int

"""Which sampling options an engine leaves without effect: what it answers as `ignored_options`."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from corral.core.requests import SamplingParams

__all__ = ("ignored_options",)

# The generation driver beside every engine sees to these.
_DRIVER = frozenset({"num_predict", "stop"})


def ignored_options(params: SamplingParams, honoured: Collection[str]) -> tuple[str, ...]:
    """The names of `params`' fields that differ from their default and are not among the `honoured`, in order."""
    return tuple(
        field.name
        for field in msgspec.structs.fields(SamplingParams)
        if field.name not in _DRIVER and field.name not in honoured and getattr(params, field.name) != field.default
    )

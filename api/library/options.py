"""What a Corral is set up with, and what its requests may say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from corral.core.runtime import Runtime

__all__ = ("AnswerOptions", "CorralOptions", "RequestOptions")


class CorralOptions(TypedDict, total=False):
    """How to set a Corral up.

    `models` is a folder in Ollama's layout. `engine` and `runner` say what runs the models, and where (``thread``, the
    default, or ``process``). `options` hold for every request that does not say otherwise. `config` is a settings file,
    `settings` maps dotted paths (``scheduler.max_loaded_models``) to values; without them the usual places count.
    `runtime` is one that was assembled elsewhere, used as it is and left open.
    """

    models: str | os.PathLike[str]
    engine: str
    runner: str
    options: Mapping[str, Any]
    config: str | os.PathLike[str]
    settings: Mapping[str, Any]
    runtime: Runtime


class RequestOptions(TypedDict, total=False):
    """What every request may say: Ollama's `options` by name; `keep_alive` in seconds, as a text such as ``5m``, or -1
    for ever (absent, the model's stays as it is); and the `engine` to use.
    """

    options: Mapping[str, Any]
    keep_alive: str | float
    engine: str | None


class AnswerOptions(RequestOptions, total=False):
    """What a request for text may say: a `system` text; `logprobs`, the number of alternatives to report beside each
    chosen token (0: the chosen alone; absent: no log-probabilities); the `format` that the answer must have, ``"json"``
    or a JSON Schema.
    """

    system: str | None
    logprobs: int | None
    format: Literal["json"] | Mapping[str, Any] | None

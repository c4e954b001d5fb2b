"""What the routes that answer have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from corral.api.http.answers import AnswerSource
from corral.api.http.errors import ApiError
from corral.api.http.openai.bodies import OpenAIBody
from corral.api.http.openai.options import format_of
from corral.api.http.openai.several import SeveralAnswers
from corral.api.http.prologue import InferenceRequest
from corral.core.errors import InvalidOption
from corral.core.generation.answers import Generation
from corral.core.requests.calls import ChatCall, GenerateCall
from corral.core.requests.requests import Constraint

__all__ = ("MODEL_REQUIRED", "MOST_TOP_LOGPROBS", "NOT_FOUND", "constraint_of", "is_ids", "opened")

MODEL_REQUIRED = ApiError(400, "model is required", param="model")
NOT_FOUND = "model '{}' not found"
MOST_TOP_LOGPROBS = 20

BodyT = TypeVar("BodyT", bound=OpenAIBody)


async def constraint_of(
    begun: InferenceRequest[BodyT], given: Mapping[str, Any] | None, param: str
) -> Constraint | None:
    """The constraint on the answer. If the model is unknown too, that error takes precedence over a wrong format."""
    try:
        return format_of(given, param)
    except (InvalidOption, ApiError):
        await begun.models.get(begun.name)
        raise


async def opened(
    begun: InferenceRequest[BodyT], calls: Sequence[ChatCall | GenerateCall], choices: int
) -> AnswerSource:
    """The answers to calls that differ in their prompts: one to each, or as many `choices`, each with a seed of its
    own. Those of a call have consecutive indices. All of them count as requests of their own.
    """
    inference = begun.runtime.inference

    async def open_one(index: int) -> Generation:
        own = msgspec.structs.replace(calls[index // choices], choice=index % choices)
        return await (inference.chat(own) if isinstance(own, ChatCall) else inference.generate(own))

    with begun:
        first = await open_one(0)
    count = len(calls) * choices
    if count == 1:
        return first
    limits, principal = begun.runtime.limits, begun.caller.principal
    limits.charge_requests(principal, count - 1)
    return SeveralAnswers(first, open_one, count, choices, limits, principal)


def is_ids(value: Any) -> bool:
    """Whether `value` is a list of what may be token ids, at least one."""
    return isinstance(value, list) and bool(value) and all(map(_is_id, value))


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31

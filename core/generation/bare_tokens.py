"""The ids of a prompt by itself, without the model's own around it."""

from __future__ import annotations

import itertools

from corral.core.errors import EngineError
from corral.core.ports.running import RunningModel
from corral.core.requests.prompts import Prompt, TextPart, TokensPart

__all__ = ("bare_ids",)


async def bare_ids(model: RunningModel, prompt: Prompt, *, most: int | None = None) -> tuple[int, ...]:
    """Engines put the model's own tokens around a prompt unless they are there, so this one stands between two ids that
    are none of these: what it begins and ends with is then its own. Raises as `RunningModel.tokenize`, and
    `EngineError` if the engine does not keep the ids of a prompt.
    """
    [added] = await model.tokenize([(TextPart(text=""),)])
    mark = next(number for number in itertools.count() if number not in added)
    border = TokensPart(ids=(mark,))
    [ids] = await model.tokenize([(border, *prompt, border)], most=most)
    if ids.count(mark) < 2:
        raise EngineError("the engine's tokenizer has lost the ids of a prompt", "this is a bug in the engine's plugin")
    return ids[ids.index(mark) + 1 : len(ids) - 1 - ids[::-1].index(mark)]

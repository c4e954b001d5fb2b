"""``/infill``: what belongs between two texts, by the model's own tokens for that."""

from __future__ import annotations

from typing import Any

from litestar import Request, post
from litestar.types import ASGIApp

from corral.api.http.answers import AnswerResponse
from corral.api.http.errors import ApiError
from corral.api.http.llama_server.bodies import SAMPLING, InfillBody, InfillFields
from corral.api.http.llama_server.infill_form import InfillAnswer, InfillForm
from corral.api.http.llama_server.opening import begun, loading
from corral.api.http.prologue import INFERENCE_STATUSES
from corral.api.http.remarks import Remarks
from corral.core.generation.answers import Generation
from corral.core.requests.answer_format import read_format
from corral.core.requests.calls import ContextFile, GenerateCall
from corral.core.requests.requests import Constraint

__all__ = ("infill",)

_MOST_PROBS = 20
_ANY_SEED = 0xFFFFFFFF
"""llama-server's number for a seed that is drawn."""
_UNNAMED = "tmp"


@post(
    "/",
    status_code=200,
    operation_id="infill",
    opt={"body": InfillBody, "reply": InfillAnswer, "events": True, "statuses": INFERENCE_STATUSES},
)
async def infill(request: Request[Any, Any, Any]) -> ASGIApp:
    """Fills in what belongs between two texts."""
    asked = await begun(request, InfillBody)
    body = asked.body
    if not 0 <= body.n_probs <= _MOST_PROBS:
        raise ApiError(400, f"n_probs must be between 0 and {_MOST_PROBS}", param="n_probs")
    files = [ContextFile(name=one.get("filename", _UNNAMED), text=one["text"]) for one in body.input_extra or ()]
    call = GenerateCall(
        prompt=(body.input_prefix or "") + body.prompt,
        suffix=body.input_suffix or "",
        insert=True,
        files=tuple(files),
        most_decode_s=body.t_max_predict_ms / 1000 if body.t_max_predict_ms > 0 else None,
        options=_options(body),
        logprobs=body.n_probs or None,
        constraint=_constraint(body),
        **loading(asked),
    )
    ignored = body.unknown if body.cache_prompt else (*body.unknown, "cache_prompt")
    form = InfillForm(body.model, Remarks(ignored), body.response_fields)

    async def open_generation() -> Generation:
        with asked:
            return await asked.runtime.inference.generate(call)

    return AnswerResponse(open_generation, form, stream=body.stream)


def _options(body: InfillFields) -> dict[str, Any]:
    """The options of the request: llama-server's names are those of Corral's table, but for two."""
    own = {name: getattr(body, name) for name in SAMPLING}
    own["num_predict"] = body.max_tokens if body.n_predict is None else body.n_predict
    own["num_keep"] = body.n_keep
    if own["seed"] == _ANY_SEED:
        own["seed"] = -1
    return {**body.options, **{name: value for name, value in own.items() if value is not None}}


def _constraint(body: InfillFields) -> Constraint | None:
    if body.grammar and body.json_schema is not None:
        raise ApiError(400, 'Either "json_schema" or "grammar" can be specified, but not both', param="grammar")
    if body.grammar:
        return read_format({"type": "gbnf", "grammar": body.grammar})
    return None if body.json_schema is None else read_format(body.json_schema or "json")

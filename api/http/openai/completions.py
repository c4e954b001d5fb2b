"""``/v1/completions``, the older API: a text is continued, through the model's chat template as Ollama does."""

from __future__ import annotations

from typing import Any

from litestar import Request, post
from litestar.types import ASGIApp

from corral.api.http.answers import AnswerResponse
from corral.api.http.errors import ApiError
from corral.api.http.openai.answering import MODEL_REQUIRED, MOST_TOP_LOGPROBS, NOT_FOUND, opened
from corral.api.http.openai.bodies import CompletionBody
from corral.api.http.openai.completion_form import CompletionForm
from corral.api.http.openai.known_fields import ignored_fields
from corral.api.http.openai.options import options_of
from corral.api.http.openai.replies import TextCompletion
from corral.api.http.prologue import INFERENCE_STATUSES, begin
from corral.api.http.remarks import Remarks
from corral.core.requests.calls import GenerateCall

__all__ = ("completions",)


@post(
    "/completions",
    status_code=200,
    operation_id="createCompletion",
    opt={"body": CompletionBody, "reply": TextCompletion, "events": True, "statuses": INFERENCE_STATUSES},
)
async def completions(request: Request[Any, Any, Any]) -> ASGIApp:
    """Continues a text, with one choice or several."""
    begun = await begin(request, CompletionBody, check=_check, no_model=MODEL_REQUIRED, not_found=NOT_FOUND)
    body = begun.body
    prompt = _prompt(body.prompt)
    call = GenerateCall(
        model=begun.model,
        caller=begun.caller,
        prompt=prompt,
        suffix=body.suffix,
        raw=body.raw,
        options=options_of(body, body.max_tokens),
        keep_alive_s=begun.keep_alive_s,
        engine=body.engine or None,
        logprobs=body.logprobs,
    )
    form = CompletionForm(
        body.model,
        Remarks(ignored_fields(body)),
        choices=body.n,
        include_usage=body.stream_options.get("include_usage") is True,
        echo=prompt if body.echo else "",
    )
    return AnswerResponse(lambda: opened(begun, call, body.n), form, stream=body.stream)


def _check(body: CompletionBody) -> None:
    if body.logprobs is not None and not 0 <= body.logprobs <= MOST_TOP_LOGPROBS:
        raise ApiError(400, f"logprobs must be between 0 and {MOST_TOP_LOGPROBS}", param="logprobs")
    if body.echo and body.logprobs is not None:
        raise ApiError(400, "echo and logprobs exclude each other: a prompt has no log-probabilities", param="echo")


def _prompt(given: Any) -> str:
    if isinstance(given, list) and len(given) == 1:
        [given] = given
    if isinstance(given, str):
        return given
    if given is None:
        raise ApiError(400, "prompt is required", param="prompt")
    raise ApiError(400, "prompt must be a text: send one request for each text, and no token ids", param="prompt")

"""``/v1/completions``, the older API: a text is continued, through the model's chat template as Ollama does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Request, post
from litestar.types import ASGIApp

from corral.api.http.answers import AnswerResponse
from corral.api.http.errors import ApiError
from corral.api.http.openai.answering import MODEL_REQUIRED, MOST_TOP_LOGPROBS, NOT_FOUND, is_ids, opened
from corral.api.http.openai.bodies import MOST_CHOICES, CompletionBody
from corral.api.http.openai.completion_form import CompletionForm
from corral.api.http.openai.known_fields import ignored_fields
from corral.api.http.openai.options import options_of
from corral.api.http.openai.replies import TextCompletion
from corral.api.http.prologue import INFERENCE_STATUSES, begin
from corral.api.http.remarks import Remarks
from corral.core.requests.calls import GenerateCall

__all__ = ("completions",)

_Prompt = str | list[int]


@post(
    "/completions",
    status_code=200,
    operation_id="createCompletion",
    opt={"body": CompletionBody, "reply": TextCompletion, "events": True, "statuses": INFERENCE_STATUSES},
)
async def completions(request: Request[Any, Any, Any]) -> ASGIApp:
    """Continues a text, or several, with one choice or several for each."""
    begun = await begin(request, CompletionBody, check=_check, no_model=MODEL_REQUIRED, not_found=NOT_FOUND)
    body = begun.body
    prompts = _prompts(body)
    call = GenerateCall(
        model=begun.model,
        caller=begun.caller,
        prompt="",
        suffix=body.suffix,
        raw=body.raw,
        options=options_of(body, body.max_tokens),
        keep_alive_s=begun.keep_alive_s,
        engine=body.engine or None,
        logprobs=body.logprobs,
    )
    calls = [_with_prompt(call, prompt) for prompt in prompts]
    echoes = [one.prompt if body.echo else "" for one in calls for _ in range(body.n)]
    usage = body.stream_options.get("include_usage") is True
    form = CompletionForm(body.model, Remarks(ignored_fields(body)), echoes, include_usage=usage)
    return AnswerResponse(lambda: opened(begun, calls, body.n), form, stream=body.stream)


def _check(body: CompletionBody) -> None:
    if body.logprobs is not None and not 0 <= body.logprobs <= MOST_TOP_LOGPROBS:
        raise ApiError(400, f"logprobs must be between 0 and {MOST_TOP_LOGPROBS}", param="logprobs")
    if body.echo and body.logprobs is not None:
        raise ApiError(400, "echo and logprobs exclude each other: a prompt has no log-probabilities", param="echo")


def _prompts(body: CompletionBody) -> Sequence[_Prompt]:
    """What is continued: a text, token ids, or several of either. Raises `ApiError` 400."""
    given = body.prompt
    if given is None or given == []:
        raise ApiError(400, "prompt is required", param="prompt")
    prompts: Sequence[Any] = given if isinstance(given, list) and not is_ids(given) else [given]
    if not all(isinstance(one, str) or is_ids(one) for one in prompts):
        raise ApiError(400, "prompt must be a text, a list of token ids, or a list of either", param="prompt")
    if len(prompts) * body.n > MOST_CHOICES:
        text = f"{len(prompts)} prompts with n = {body.n} are more than {MOST_CHOICES} answers; send fewer at once"
        raise ApiError(400, text, param="prompt")
    for name, stated in (("echo", body.echo), ("suffix", body.suffix)):
        if stated and not all(isinstance(one, str) for one in prompts):
            raise ApiError(400, f"{name} needs a prompt that is a text", param=name)
    return prompts


def _with_prompt(call: GenerateCall, prompt: _Prompt) -> GenerateCall:
    if isinstance(prompt, str):
        return msgspec.structs.replace(call, prompt=prompt)
    return msgspec.structs.replace(call, prompt_ids=tuple(prompt), raw=True)

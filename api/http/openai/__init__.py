"""OpenAI's API: one router, its wire structs beside it."""

from __future__ import annotations

from litestar import Router

from corral.api.http.openai.audio import create_transcription
from corral.api.http.openai.chat import chat_completions
from corral.api.http.openai.completions import completions
from corral.api.http.openai.dialect import OPENAI
from corral.api.http.openai.embeddings import openai_embeddings
from corral.api.http.openai.models import get_model, list_models
from corral.api.http.openai.responses.background import cancel_response
from corral.api.http.openai.responses.counting import count_input_tokens
from corral.api.http.openai.responses.create import create_response
from corral.api.http.openai.responses.stored import delete_response, get_response, list_input_items

__all__ = ("router",)

router = Router(
    path="/v1",
    route_handlers=[
        chat_completions,
        completions,
        openai_embeddings,
        list_models,
        get_model,
        create_response,
        count_input_tokens,
        get_response,
        delete_response,
        list_input_items,
        cancel_response,
        create_transcription,
    ],
    opt={"dialect": OPENAI, "scope": "infer"},
)

"""Requests in the form of OpenAI's HTTP API, with the additions of vLLM, SGLang and llama-server.

https://platform.openai.com/docs/api-reference/chat, https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from corral.adapters.engines.upstream.api_request import Exchange, plain_text, schema_of, tool_choice_entry, tool_entry
from corral.adapters.engines.upstream.options import mapped_context, mapped_sampling
from corral.core.requests.call_ids import with_call_ids
from corral.core.requests.image_places import in_places
from corral.core.requests.media import media_kind, media_type
from corral.core.requests.messages import Message
from corral.core.requests.requests import ChatRequest, CompletionRequest, Constraint

__all__ = ("chat_exchange", "completion_exchange", "embed_exchange")

_STREAM = {"stream": True, "stream_options": {"include_usage": True}}
# By default, OpenAI's completions end after 16 tokens, and there is no value for "as many as fit".
_COMPLETION_TOKENS = 1024
_ANY_OBJECT = {"type": "object"}
_EFFORTS = {"max": "high"}


def chat_exchange(request: ChatRequest, model: str, api: str) -> Exchange:
    sampling, ignored = mapped_sampling(request.sampling, api)
    _, unheld = mapped_context(request.context, api)
    thinking = _thinking(request.think, api)
    body = {"model": model, "messages": _messages(request.messages, api)} | _STREAM | sampling | thinking
    body |= _constraint(request.constraint, api)
    if request.tools:
        body["tools"] = [tool_entry(tool) for tool in request.tools]
        body |= tool_choice_entry(request.tool_choice)
        if not request.parallel_tool_calls:
            body["parallel_tool_calls"] = False
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    unthought = ["think"] if request.think is not None and not thinking else []
    if request.thinking_budget is not None:
        unthought.append("thinking_budget")
    if api == "openai" and any(message.thinking for message in request.messages):
        unthought.append("messages.thinking")
    return Exchange(
        path="/v1/chat/completions", body=body, ignored=(*ignored, *unheld, *unthought), logprobs=request.logprobs
    )


def completion_exchange(request: CompletionRequest, model: str, api: str, context_length: int | None) -> Exchange:
    sampling, ignored = mapped_sampling(request.sampling, api)
    _, unheld = mapped_context(request.context, api)
    most = min(_COMPLETION_TOKENS, (context_length or 2 * _COMPLETION_TOKENS) // 2)
    body = {"model": model, "prompt": plain_text(request.prompt), "max_tokens": most} | _STREAM | sampling
    body |= _constraint(request.constraint, api)
    if request.logprobs is not None:
        body["logprobs"] = max(1, request.logprobs)
    return Exchange(path="/v1/completions", body=body, ignored=(*ignored, *unheld), logprobs=request.logprobs)


def embed_exchange(texts: Sequence[str], model: str, api: str, *, truncate: bool) -> Exchange:
    body: dict[str, Any] = {"model": model, "input": list(texts), "encoding_format": "float"}
    if truncate and api == "vllm":
        body["truncate_prompt_tokens"] = -1
    return Exchange(path="/v1/embeddings", body=body)


def _messages(messages: Iterable[Message], api: str) -> list[dict[str, Any]]:
    """Here, the result of a tool names its call. Earlier thinking has no place in OpenAI's own API; servers of open
    models pass it to their template.
    """
    written: list[dict[str, Any]] = []
    for message in with_call_ids(messages):
        entry: dict[str, Any] = {"role": message.role, "content": _content(message)}
        if message.thinking and api != "openai":
            entry["reasoning_content"] = message.thinking
        if message.tool_calls:
            entry["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": msgspec.json.encode(call.arguments).decode()},
                }
                for call in message.tool_calls
            ]
        elif message.role == "tool":
            entry["tool_call_id"] = message.tool_call_id or "call_0"
        written.append(entry)
    return written


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    parts = (_text(one) if isinstance(one, str) else _file(one) for one in in_places(message.content, message.images))
    return [part for part in parts if part.get("text") != ""]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _file(data: bytes) -> dict[str, Any]:
    kind, encoded = media_type(data), b64encode(data).decode()
    if media_kind(data) == "audio":
        return {
            "type": "input_audio",
            "input_audio": {"data": encoded, "format": "wav" if kind == "audio/wav" else "mp3"},
        }
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{encoded}"}}


def _thinking(think: bool | str | None, api: str) -> dict[str, Any]:
    """Templates have the switch ``enable_thinking``; a level becomes OpenAI's ``reasoning_effort``."""
    if think is None:
        return {}
    sent: dict[str, Any] = {}
    if isinstance(think, str):
        sent["reasoning_effort"] = _EFFORTS.get(think, think)
    if api != "openai":
        sent["chat_template_kwargs"] = {"enable_thinking": bool(think)}
    return sent


def _constraint(constraint: Constraint | None, api: str) -> dict[str, Any]:
    if constraint is None:
        return {}
    if constraint.kind == "gbnf" and api == "llama-server":
        return {"grammar": constraint.source}
    if constraint.kind in ("regex", "choice") and api == "vllm":
        value = constraint.source if constraint.kind == "regex" else msgspec.json.decode(constraint.source)
        return {"structured_outputs": {constraint.kind: value}}
    if constraint.kind == "regex" and api == "sglang":
        return {"regex": constraint.source}
    schema = schema_of(constraint)
    if schema == _ANY_OBJECT:  # understood even by servers without schemas
        return {"response_format": {"type": "json_object"}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}

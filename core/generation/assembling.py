"""Makes the request for a running model out of a call and what the model's manifest adds to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from corral.core.models.model import StoredModel
from corral.core.requests.calls import AnswerCall, ChatCall, GenerateCall
from corral.core.requests.messages import Message, Tool
from corral.core.requests.options import ResolvedOptions, resolve_options
from corral.core.requests.prompts import MediaPart, TextPart
from corral.core.requests.requests import ChatRequest, CompletionRequest, ContextPolicy

__all__ = ("chat_request", "generate_request", "resolved_options")

_log = logging.getLogger(__name__)


def resolved_options(record: StoredModel, options: Mapping[str, Any]) -> ResolvedOptions:
    """The model's own options, and then the request's. Unknown ones are accepted, as Ollama does, and logged."""
    resolved = resolve_options(record.parameters, options)
    if resolved.unknown:
        names = ", ".join(repr(name[:40]) for name in resolved.unknown[:8])
        _log.warning("%s: ignored options: %s", record.name.short, names)
    return resolved


def chat_request(record: StoredModel, call: ChatCall, options: ResolvedOptions) -> ChatRequest:
    return _chat(call, options, _chat_messages(record, call.messages), call.tools)


def generate_request(
    record: StoredModel, call: GenerateCall, options: ResolvedOptions
) -> ChatRequest | CompletionRequest:
    """A completion if the call is raw, else a chat."""
    if not call.raw:
        return _chat(call, options, _generate_messages(record, call), return_token_ids=call.return_token_ids)
    text = TextPart(text=call.prompt, parse_special=True)
    return CompletionRequest(
        caller=call.caller,
        prompt=(*(MediaPart(data=image) for image in call.images), text),
        sampling=options.sampling,
        context=_context(options, call.shift),
        constraint=call.constraint,
        logprobs=call.logprobs,
        return_token_ids=call.return_token_ids,
    )


def _chat_messages(record: StoredModel, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """As Ollama: the model's own messages first; its SYSTEM before all, unless the caller begins with one."""
    whole = (*record.messages, *messages)
    if record.system and not (messages and messages[0].role == "system"):
        return (Message(role="system", content=record.system), *whole)
    return whole


def _generate_messages(record: StoredModel, call: GenerateCall) -> tuple[Message, ...]:
    system = call.system or record.system
    opening = (Message(role="system", content=system),) if system else ()
    return (*opening, *record.messages, Message(role="user", content=call.prompt, images=call.images))


def _chat(
    call: AnswerCall,
    options: ResolvedOptions,
    messages: tuple[Message, ...],
    tools: tuple[Tool, ...] = (),
    *,
    return_token_ids: bool = False,
) -> ChatRequest:
    return ChatRequest(
        caller=call.caller,
        messages=messages,
        tools=tools,
        sampling=options.sampling,
        context=_context(options, call.shift),
        think=call.think,
        constraint=call.constraint,
        logprobs=call.logprobs,
        return_token_ids=return_token_ids,
    )


def _context(options: ResolvedOptions, shift: bool | None) -> ContextPolicy:
    return options.context if shift is None else msgspec.structs.replace(options.context, shift=shift)

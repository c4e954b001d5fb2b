"""Makes the request for a running model from a call and what the model's manifest adds."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from corral.core.errors import InvalidRequest
from corral.core.generation.filling_in import insert_prompt
from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.models.view import ModelView
from corral.core.requests.calls import AnswerCall, ChatCall, GenerateCall
from corral.core.requests.image_places import refuse_repeated
from corral.core.requests.messages import Message
from corral.core.requests.options import (
    LEAST_NUM_CTX,
    LEAST_NUM_CTX_WITH_IMAGES,
    ResolvedOptions,
    resolve_options,
)
from corral.core.requests.prompts import MediaPart, Prompt, TextPart, TokensPart, joined
from corral.core.requests.requests import ChatRequest, CompletionRequest, ContextPolicy, TextRequest
from corral.core.values import fields_in_common

__all__ = ("chat_request", "generate_request", "of_choice", "resolved_options")

_IMAGE_PLACE = re.compile(r"\[img-([0-9]{1,9})\]")

_OPTION_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,39}", re.IGNORECASE)
_MOST_NAMES = 8
_SEEDS = 1 << 63

_log = logging.getLogger(__name__)


def resolved_options(view: ModelView, options: Mapping[str, Any]) -> ResolvedOptions:
    """The model's own options, and then the request's. Unknown ones are accepted, as Ollama does, and logged."""
    record = view.record
    least = LEAST_NUM_CTX_WITH_IMAGES if "vision" in view.capabilities else LEAST_NUM_CTX
    resolved = resolve_options(record.parameters, options, least_num_ctx=least)
    if resolved.unknown:
        _log.warning("%s: ignored options: %s", record.name.short, _told(resolved.unknown))
    return resolved


def _told(names: Sequence[str]) -> str:
    """The names for the log, except what is no name: it may be a text that a client has put into the wrong place."""
    told = [repr(name) for name in names if _OPTION_NAME.fullmatch(name)][:_MOST_NAMES]
    others = len(names) - len(told)
    return ", ".join([*told, f"others: {others}"] if others else told)


def of_choice(options: ResolvedOptions, choice: int) -> ResolvedOptions:
    """The options of the answer with this index among several: with the seed of the first, all would say the same."""
    seed = options.sampling.seed
    if not choice or seed is None:
        return options
    own = msgspec.structs.replace(options.sampling, seed=(seed + choice) % _SEEDS)
    return msgspec.structs.replace(options, sampling=own)


def chat_request(record: StoredModel, call: ChatCall, options: ResolvedOptions) -> ChatRequest:
    return _chat(call, options, _chat_messages(record, call.messages))


def generate_request(
    record: StoredModel,
    call: GenerateCall,
    options: ResolvedOptions,
    metadata: ModelMetadata | None = None,
) -> ChatRequest | CompletionRequest:
    """A completion if the call is raw, has token ids, or fills in and the model has tokens for that, as its `metadata`
    says; otherwise a chat. Raises `InvalidRequest` for images beside such tokens.
    """
    prompt: Prompt
    if (call.suffix or call.insert) and metadata is not None and metadata.fim_ids is not None:
        if call.images:
            raise InvalidRequest("suffix and images exclude each other with this model", "omit one of them")
        earlier = (TokensPart(ids=call.earlier_ids),) if call.earlier_ids else ()
        prompt = (*earlier, *insert_prompt(call, metadata.fim_ids, metadata.repository_ids))
    elif call.prompt_ids:
        prompt = (TokensPart(ids=call.prompt_ids),)
    elif call.raw:
        prompt = raw_prompt(call.prompt, call.images)
    else:
        return _chat(call, options, _generate_messages(record, call))
    return CompletionRequest(**_passed_on(call, options, CompletionRequest) | {"prompt": prompt})


def raw_prompt(text: str, images: tuple[bytes, ...]) -> Prompt:
    """A prompt without a template, with each image in place of ``[img-N]``, where N is its index, as in Ollama. Images
    that the text does not mention stand in front of it. Raises `InvalidRequest` if it mentions images too often.
    """
    pieces = _IMAGE_PLACE.split(text) if images else [text]
    refuse_repeated(sum([int(number) < len(images) for number in pieces[1::2]]), len(images))
    parts: list[TextPart | MediaPart] = []
    mentioned = set()
    for index, piece in enumerate(pieces):
        number = int(piece) if index % 2 else -1
        if 0 <= number < len(images):
            parts.append(MediaPart(data=images[number]))
            mentioned.add(number)
        else:
            parts.append(TextPart(text=f"[img-{piece}]" if index % 2 else piece, parse_special=True))
    return joined((*(MediaPart(data=one) for number, one in enumerate(images) if number not in mentioned), *parts))


def _chat_messages(record: StoredModel, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """As Ollama does: first the model's SYSTEM, unless the caller begins with one, then its own messages."""
    whole = (*record.messages, *messages)
    if record.system and not (messages and messages[0].role == "system"):
        return (Message(role="system", content=record.system), *whole)
    return whole


def _generate_messages(record: StoredModel, call: GenerateCall) -> tuple[Message, ...]:
    system = call.system or record.system
    opening = (Message(role="system", content=system),) if system else ()
    earlier = () if call.earlier_ids else record.messages
    content = "".join([f"{file.text}\n" for file in call.files]) + call.prompt
    return (*opening, *earlier, Message(role="user", content=content, images=call.images))


def _chat(call: AnswerCall, options: ResolvedOptions, messages: tuple[Message, ...]) -> ChatRequest:
    passed_on = _passed_on(call, options, ChatRequest)
    return ChatRequest(**passed_on | {"messages": messages, "thinking_budget": options.thinking_budget})


def _passed_on(call: AnswerCall, options: ResolvedOptions, request: type[TextRequest]) -> dict[str, Any]:
    """What a call and the resolved options say about every request of this type: fields of the same name correspond."""
    context = _context(options, call)
    return fields_in_common(call, request) | {"sampling": options.sampling, "context": context}


def _context(options: ResolvedOptions, call: AnswerCall) -> ContextPolicy:
    shift = options.context.shift if call.shift is None else call.shift
    return msgspec.structs.replace(options.context, shift=shift, truncate=call.truncate)

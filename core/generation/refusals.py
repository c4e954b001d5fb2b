"""Refuses what a model or its engine cannot do, by name, so that nothing of a call is dropped silently."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import msgspec

from corral.core.errors import InvalidRequest, Unsupported
from corral.core.models.model import StoredModel
from corral.core.models.view import ModelView
from corral.core.ports.running import Task
from corral.core.requests.calls import AnswerCall, ChatCall, GenerateCall
from corral.core.requests.media import check_media, media_kind
from corral.core.requests.requests import ChatRequest, CompletionRequest
from corral.core.scheduling.leases import Lease

_MEDIA = (("image", "vision", "images"), ("audio", "audio", "audio"))
"""Each kind of file: the capability of models for it, and the feature of engines, which is also its name in errors."""

_SMALL_FILES = 64 << 10
"""Bytes that are checked so quickly that the event loop does not notice."""

__all__ = (
    "refuse_beside_raw",
    "refuse_textless_model",
    "refuse_unserved",
    "require_capability",
    "require_features",
    "require_rendering",
    "require_task",
    "settled_thinking",
    "unlimited_thinking",
    "with_enforceable_budget",
)


def refuse_textless_model(capabilities: Collection[str], name: str, task: str) -> None:
    """Before loading, so that no model is evicted for a request that cannot be served. Raises `Unsupported`."""
    if "completion" not in capabilities and ("embedding" in capabilities or "rerank" in capabilities):
        raise Unsupported(f'"{name}" does not support {task}')


def settled_thinking(view: ModelView, name: str, think: bool | str | None) -> bool | str | None:
    """Whether the model is to think: if not stated, a model that can does. Another server decides for its own models.

    Before loading. Raises `Unsupported` for a model that cannot think but is asked to.
    """
    if view.record.remote:
        return think
    able = "thinking" in view.capabilities
    if think and not able:
        raise Unsupported(f'"{name}" does not support thinking')
    return True if think is None and able else think


def refuse_beside_raw(raw: bool, template: object, system: object, context: object) -> None:
    """Raises `InvalidRequest` if a raw prompt comes with what only a template has a place for."""
    if raw and (template or system or context):
        raise InvalidRequest("raw mode does not support template, system, or context")


def require_capability(record: StoredModel, capabilities: Collection[str], needed: str) -> None:
    """Before loading. Raises `Unsupported` if the model does not have the capability."""
    if needed not in capabilities:
        raise Unsupported(f"{record.name.full} does not support {needed}")


async def refuse_unserved(record: StoredModel, capabilities: Collection[str], call: AnswerCall) -> None:
    """Before loading too. Raises `Unsupported`, and `InvalidRequest` for bad images and for fields that exclude each
    other.
    """
    if isinstance(call, GenerateCall):
        refuse_beside_raw(call.raw, call.template, call.system, call.earlier_ids)
    if isinstance(call, GenerateCall) and (call.suffix or call.insert):
        require_capability(record, capabilities, "insert")
    for field in ("template", "suffix", "insert", "prompt_ids") if record.remote else ():
        if getattr(call, field, ""):
            raise Unsupported(f"{field} is not passed on to models on other servers", "omit it")
    files = _files(call)
    if not files:
        return
    kinds = {media_kind(data) for data in files}
    for kind, capability, name in _MEDIA:
        if kind in kinds and capability not in capabilities:
            raise Unsupported(f'"{call.model}" does not support {name}', f"omit them, or use a model with {capability}")
    if sum(map(len, files)) < _SMALL_FILES:
        check_media(files)
    else:
        await asyncio.to_thread(check_media, files)


def require_task(lease: Lease, task: Task, name: str, wanted: str) -> None:
    """Raises `Unsupported` if the engine cannot do this task with the model."""
    if task not in lease.model.info.tasks:
        remedy = f"it runs on {lease.engine}, which cannot do this; corral show lists the engines that can run it"
        raise Unsupported(f'"{name}" does not support {wanted}', remedy)


def require_rendering(lease: Lease, request: ChatRequest | CompletionRequest, name: str) -> None:
    """Raises `Unsupported` if the request's prompt is not made here."""
    if isinstance(request, ChatRequest):
        if "chat" in lease.model.info.tasks:
            raise Unsupported(f'"{name}" runs on {lease.engine}, which renders its chats itself')
        require_task(lease, "completion", name, "chat")
    else:
        require_task(lease, "completion", name, "generate")


def require_features(lease: Lease, call: AnswerCall, *, owns_format: bool) -> None:
    """Raises `Unsupported` for a field of the call that needs a feature which the engine does not have.

    `owns_format`: it takes chats as they are, and decides for itself which formats of answers it supports.
    """
    features = lease.model.info.features
    if call.constraint is not None and not owns_format and "constraints" not in features:
        raise Unsupported(f'format: "{call.model}" runs on {lease.engine}, which does not support formats')
    if owns_format and isinstance(call, GenerateCall) and call.earlier_ids:
        raise Unsupported(f'context: "{call.model}" runs on {lease.engine}, which does not exchange token ids')
    kinds = {media_kind(data) for data in _files(call)}
    for kind, _, name in _MEDIA:
        if kind in kinds and name not in features:
            reason = lease.model.info.details.get(name)
            raise Unsupported(
                f'{name}: "{call.model}" runs on {lease.engine}, which does not support {name}'
                + (f" of this model: {reason}" if reason else "")
            )


def with_enforceable_budget(
    lease: Lease, request: ChatRequest | CompletionRequest
) -> tuple[ChatRequest | CompletionRequest, tuple[str, ...]]:
    """The request without a limit of thinking that is not enforced, and then the option's name: it is not in raw
    prompts, since nothing says where thinking ends, nor by engines without masks.
    """
    if isinstance(request, CompletionRequest):
        return request, ("thinking_budget",)
    if "constraints" not in lease.model.info.features:
        return msgspec.structs.replace(request, thinking_budget=None), ("thinking_budget",)
    return request, ()


def unlimited_thinking(request: ChatRequest, completion: CompletionRequest) -> tuple[str, ...]:
    """The option's name if the limit of thinking has no effect, because the model has no tags around it."""
    without = request.thinking_budget is not None and request.think is not False and completion.thinking is None
    return ("thinking_budget",) if without else ()


def _files(call: AnswerCall) -> tuple[bytes, ...]:
    if isinstance(call, GenerateCall):
        return call.images
    return tuple(file for message in call.messages for file in message.images) if isinstance(call, ChatCall) else ()

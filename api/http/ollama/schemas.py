"""The names that Ollama's own API document gives to the wire structs, and what the structs cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corral.api.http.ollama import bodies, create_body, replies, token_bodies, transfer_bodies, web
from corral.api.http.schemas import DocumentedSchema
from corral.core.requests.option_values import OptionKind
from corral.core.requests.options import OPTIONS

__all__ = ("COMPONENTS", "SCHEMAS")

_KEEP_ALIVE = {
    "oneOf": [{"type": "string"}, {"type": "number"}],
    "description": "how long the model stays loaded: a duration such as 5m, or seconds; negative keeps it",
}
_SCHEMA_OR_GRAMMAR = {
    "type": "object",
    "description": 'a JSON Schema, or {"type": "gbnf"|"lark", "grammar": …}, {"type": "regex", "pattern": …}, '
    '{"type": "choice", "choices": […]}',
}
_THINK = {
    "oneOf": [{"type": "boolean"}, {"type": "string", "enum": ["low", "medium", "high", "max"]}],
    "description": "whether the model thinks before it answers, or how much",
}
_TOOL_CHOICE = {"oneOf": [{"type": "string"}, {"type": "object"}]}
_IMAGES = {"type": ["array", "null"], "items": {"type": "string"}}
_TIME = {"type": "string", "format": "date-time"}
_OPTION_KINDS: Mapping[OptionKind, Mapping[str, Any]] = {
    "integer": {"type": "integer"},
    "float32": {"type": "number", "format": "float"},
    "boolean": {"type": "boolean"},
    "string": {"type": "string"},
    "array": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    "bias": {"oneOf": [{"type": "array"}, {"type": "object"}]},
}
_OPTIONS = {"$ref": "#/components/schemas/ModelOptions"}

_REQUEST = {"keep_alive": _KEEP_ALIVE, "options": _OPTIONS}
_ANSWER_REQUEST = {**_REQUEST, "think": _THINK}
_FUNCTION_ARGUMENTS = {
    "name": {"type": "string"},
    "description": {"type": "string"},
    "arguments": {"type": "object"},
    "index": {"type": "integer"},
}
_INLINE = DocumentedSchema()

SCHEMAS: Mapping[type[Any], DocumentedSchema] = {
    bodies.GenerateBody: DocumentedSchema(
        name="GenerateRequest",
        required=("model",),
        fields=_ANSWER_REQUEST | {"format": {"oneOf": [{"type": "string"}, _SCHEMA_OR_GRAMMAR]}},
    ),
    bodies.ChatBody: DocumentedSchema(
        name="ChatRequest",
        required=("model", "messages"),
        fields=_ANSWER_REQUEST
        | {
            "format": {"oneOf": [{"type": "string", "enum": ["json"]}, _SCHEMA_OR_GRAMMAR]},
            "tool_choice": _TOOL_CHOICE,
        },
    ),
    bodies.MessageBody: DocumentedSchema(
        name="ChatMessage",
        required=("role", "content"),
        fields={"role": {"type": "string", "enum": ["system", "user", "assistant", "tool"]}},
    ),
    bodies.ToolCallBody: DocumentedSchema(name="ToolCall"),
    bodies.ToolCallFunctionBody: DocumentedSchema(required=("name",), fields=_FUNCTION_ARGUMENTS),
    bodies.ToolBody: DocumentedSchema(
        name="ToolDefinition",
        required=("type", "function"),
        fields={"type": {"type": "string", "enum": ["function"]}},
    ),
    bodies.ToolFunctionBody: DocumentedSchema(required=("name", "parameters")),
    bodies.EmbedBody: DocumentedSchema(
        name="EmbedRequest",
        required=("model", "input"),
        fields=_REQUEST | {"input": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}},
    ),
    bodies.EmbeddingBody: DocumentedSchema(name="EmbeddingsRequest", required=("model",), fields=_REQUEST),
    token_bodies.TokenizeBody: DocumentedSchema(
        name="TokenizeRequest",
        required=("model",),
        fields=_ANSWER_REQUEST,
    ),
    token_bodies.DetokenizeBody: DocumentedSchema(
        name="DetokenizeRequest", required=("model", "tokens"), fields=_REQUEST
    ),
    bodies.ShowBody: DocumentedSchema(name="ShowRequest", required=("model",), fields={"options": _OPTIONS}),
    create_body.CreateBody: DocumentedSchema(
        name="CreateRequest",
        required=("model",),
        fields={
            "license": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
            "parameters": _OPTIONS,
        },
    ),
    transfer_bodies.PullBody: DocumentedSchema(name="PullRequest", required=("model",)),
    transfer_bodies.PushBody: DocumentedSchema(name="PushRequest", required=("model",)),
    bodies.CopyBody: DocumentedSchema(name="CopyRequest", required=("source", "destination")),
    web.WebSearchBody: DocumentedSchema(
        name="WebSearchRequest",
        required=("query",),
        fields={"max_results": {"type": "integer", "minimum": 1, "maximum": 10, "default": 5}},
    ),
    web.WebFetchBody: DocumentedSchema(
        name="WebFetchRequest", required=("url",), fields={"url": {"type": "string", "format": "uri"}}
    ),
    bodies.DeleteBody: DocumentedSchema(name="DeleteRequest", required=("model",)),
    replies.GenerateReply: DocumentedSchema(name="GenerateResponse", stream_name="GenerateStreamEvent"),
    replies.ChatReply: DocumentedSchema(
        name="ChatResponse", stream_name="ChatStreamEvent", fields={"created_at": _TIME}
    ),
    replies.ReplyMessage: DocumentedSchema(
        fields={"role": {"type": "string", "enum": ["assistant"]}, "images": _IMAGES}
    ),
    replies.ToolCallReply: DocumentedSchema(name="ToolCall"),
    replies.CalledFunction: DocumentedSchema(fields=_FUNCTION_ARGUMENTS),
    replies.EmbedReply: DocumentedSchema(name="EmbedResponse"),
    replies.EmbeddingReply: DocumentedSchema(name="EmbeddingsResponse"),
    token_bodies.TokenizeReply: DocumentedSchema(name="TokenizeResponse"),
    token_bodies.DetokenizeReply: DocumentedSchema(name="DetokenizeResponse"),
    replies.ListReply: DocumentedSchema(name="ListResponse"),
    replies.ListedModel: DocumentedSchema(name="ModelSummary"),
    replies.Details: _INLINE,
    replies.ProcessReply: DocumentedSchema(name="PsResponse"),
    replies.RunningModelReply: DocumentedSchema(name="Ps"),
    replies.ShowReply: DocumentedSchema(name="ShowResponse"),
    replies.StatusReply: DocumentedSchema(name="StatusResponse", stream_name="StatusEvent"),
    replies.VersionReply: DocumentedSchema(name="VersionResponse"),
    replies.ErrorEnvelope: DocumentedSchema(name="ErrorResponse"),
}

_WEB_PAGE = {"title": {"type": "string"}, "content": {"type": "string"}}
_URI = {"type": "string", "format": "uri"}

COMPONENTS: Mapping[str, Any] = {
    "ModelOptions": {
        "type": "object",
        "properties": {name: {**_OPTION_KINDS[row.kind], "description": row.help} for name, row in OPTIONS.items()},
        "additionalProperties": True,
    },
    "WebSearchResult": {"type": "object", "properties": _WEB_PAGE | {"url": _URI}},
    "WebSearchResponse": {
        "type": "object",
        "properties": {"results": {"type": "array", "items": {"$ref": "#/components/schemas/WebSearchResult"}}},
    },
    "WebFetchResponse": {
        "type": "object",
        "properties": _WEB_PAGE | {"links": {"type": "array", "items": _URI}},
    },
}
"""Schemas that no struct has: options, and answers that only ollama.com gives."""

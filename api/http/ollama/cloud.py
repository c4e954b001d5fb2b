"""The routes about ollama.com, which Corral never contacts: answered as by an Ollama whose cloud is disabled."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.types import ASGIApp

from corral.api.http.errors import JSON, ApiError
from corral.api.http.ollama.replies import Reply

__all__ = (
    "account",
    "cloud_status",
    "forget_key",
    "recommendations",
    "sign_out",
)

_NOT_SIGNED_IN = "you are not currently signed in"


class CloudState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether ollama.com may be used, and what decides it."""

    disabled: bool = True
    source: Literal["none", "env", "config", "both"] = "config"


class CloudStatusReply(Reply, frozen=True, kw_only=True):
    cloud: CloudState


class Recommendation(Reply, frozen=True, kw_only=True):
    model: str
    description: str


class RecommendationsReply(Reply, frozen=True, kw_only=True):
    recommendations: tuple[Recommendation, ...]


@get("/api/status", operation_id="status", opt={"scope": "infer", "reply": CloudStatusReply})
async def cloud_status(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Says that ollama.com is not used."""
    return Response(msgspec.json.encode(CloudStatusReply(cloud=CloudState())), media_type=JSON)


@get(
    "/api/experimental/model-recommendations",
    operation_id="recommendations",
    opt={"scope": "infer", "reply": RecommendationsReply},
)
async def recommendations(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Recommends nothing: the list is ollama.com's."""
    return Response(msgspec.json.encode(RecommendationsReply(recommendations=())), media_type=JSON)


@post("/api/me", operation_id="me", opt={"scope": "admin", "succeeds": False})
async def account(request: Request[Any, Any, Any]) -> ASGIApp:
    """Knows no account."""
    raise ApiError(503, "account unavailable")


@post("/api/signout", operation_id="signOut", opt={"scope": "admin", "succeeds": False, "statuses": (401,)})
async def sign_out(request: Request[Any, Any, Any]) -> ASGIApp:
    """Nobody is signed in."""
    raise ApiError(401, _NOT_SIGNED_IN)


@delete(
    "/api/user/keys/{key:str}",
    status_code=200,
    operation_id="forgetKey",
    opt={"scope": "admin", "succeeds": False, "statuses": (401,)},
)
async def forget_key(request: Request[Any, Any, Any]) -> ASGIApp:
    """The older form of signing out."""
    raise ApiError(401, _NOT_SIGNED_IN)

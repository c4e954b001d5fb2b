"""``/v1/audio/transcriptions``, for which no engine is there yet."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, post

from corral.api.http.errors import ApiError

__all__ = ("create_transcription",)


@post(
    "/audio/transcriptions",
    operation_id="createTranscription",
    opt={"binary": True, "succeeds": False},
)
async def create_transcription(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Says that nothing here turns speech into text. The sound is not read."""
    raise ApiError(
        501,
        "no installed engine transcribes speech; models that hear take sound as input_audio in /v1/chat/completions",
        code="unsupported",
    )

"""The headers in which clients read what is left of their limits: OpenAI's, or Anthropic's for its clients.

OpenAI: https://platform.openai.com/docs/guides/rate-limits; Anthropic: https://docs.anthropic.com/en/api/rate-limits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from litestar.types import Scope

from corral.core.access.limits import Allowance, Allowances
from corral.core.access_errors import TooManyRequests, Unauthenticated

__all__ = ("limit_headers", "refusal_headers")

_ANTHROPIC = b"anthropic-version"
"""All of Anthropic's clients send it."""


def limit_headers(scope: Scope, left: Allowances) -> list[tuple[bytes, bytes]]:
    """In the form of the client that sent this request; empty without limits."""
    rows = [(unit, one) for unit, one in (("requests", left.requests), ("tokens", left.tokens)) if one is not None]
    if not rows:
        return []
    form = _anthropic if any(name == _ANTHROPIC for name, _ in scope["headers"]) else _openai
    return [(name.encode(), value.encode()) for unit, one in rows for name, value in form(unit, one)]


def refusal_headers(error: Exception) -> dict[str, str]:
    """What the refusal of a request says beside its body, in any dialect. ``Retry-After`` is whole seconds, at least
    one."""
    if isinstance(error, TooManyRequests):
        return {"retry-after": str(max(1, math.ceil(error.retry_after_s)))}
    return {"www-authenticate": "Bearer"} if isinstance(error, Unauthenticated) else {}


def _openai(unit: str, left: Allowance) -> Iterator[tuple[str, str]]:
    yield f"x-ratelimit-limit-{unit}", str(left.limit)
    yield f"x-ratelimit-remaining-{unit}", str(left.remaining)
    yield f"x-ratelimit-reset-{unit}", _span(left.reset_s)


def _anthropic(unit: str, left: Allowance) -> Iterator[tuple[str, str]]:
    at = datetime.fromtimestamp(time.time(), UTC) + timedelta(seconds=math.ceil(left.reset_s))
    yield f"anthropic-ratelimit-{unit}-limit", str(left.limit)
    yield f"anthropic-ratelimit-{unit}-remaining", str(left.remaining)
    yield f"anthropic-ratelimit-{unit}-reset", at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _span(seconds: float) -> str:
    """``6m0s``, ``1s``, ``20ms``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"

"""The request bodies of ``/api/pull`` and ``/api/push``."""

from __future__ import annotations

from typing import ClassVar

from corral.api.http.ollama.bodies import NamedBody

__all__ = ("PullBody", "PushBody")


class PullBody(NamedBody, frozen=True, kw_only=True):
    """``POST /api/pull``. `destination` is Corral's addition: the name under which the model is stored."""

    go_name: ClassVar[str] = "PullRequest"

    insecure: bool = False
    stream: bool = True
    destination: str = ""


class PushBody(NamedBody, frozen=True, kw_only=True):
    """``POST /api/push``. Corral adds `destination`, the reference to publish the model as, and `format`, that of the
    manifest (``ollama``, ``modelpack``).
    """

    go_name: ClassVar[str] = "PushRequest"

    insecure: bool = False
    stream: bool = True
    destination: str = ""
    format: str = ""

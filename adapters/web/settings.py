"""The settings of the web: ``[web]``, and those of the search service, ``[search_providers.searxng]``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = ("SearxngSettings", "WebSettings")


class WebSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[web]``: whether the web is used, and how its pages are fetched. Times are in seconds."""

    search: Annotated[
        str,
        Meta(
            description="What searches the web: `searxng`, or the name of a plugin's search provider. If empty, "
            "nothing is searched."
        ),
    ] = ""
    fetch: Annotated[
        bool | None,
        Meta(description="Whether pages are fetched when a client or a model asks; if unset, if `search` is set."),
    ] = None
    allow: Annotated[
        tuple[str, ...],
        Meta(
            description="Host names and networks, such as `wiki.example` or `10.1.0.0/16`, whose pages are fetched "
            "although they are not on the public internet."
        ),
    ] = ()
    ports: Annotated[tuple[int, ...], Meta(description="The ports that pages are fetched from.")] = (80, 443)
    max_page_bytes: Annotated[
        int, Meta(ge=1024, le=64 * 1024 * 1024, description="The largest page, as sent and after it is unpacked.")
    ] = 5 * 1024 * 1024
    max_redirects: Annotated[int, Meta(ge=0, le=20, description="How many redirects are followed for one page.")] = 5
    timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="Longest time for a page, from looking up its host to its last byte.")
    ] = 20.0
    total_timeout_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="Longest time for a page or a search, including the wait for its turn."),
    ] = 60.0
    user_agent: Annotated[
        str, Meta(description="The `User-Agent` of requests; empty means `corral/VERSION`.", pattern=r"^[ -~]*$")
    ] = ""


class SearxngSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[search_providers.searxng]``: the address of a SearXNG whose ``search.formats`` has ``json``."""

    url: Annotated[str, Meta(description="The address of a SearXNG, such as `http://127.0.0.1:8888`.")] = ""
    language: Annotated[str, Meta(description="The language of the results, such as `en`; empty means all.")] = ""
    categories: Annotated[
        str, Meta(description="The categories that are searched, separated by commas; empty means SearXNG's default.")
    ] = ""
    safe_search: Annotated[
        Literal[0, 1, 2] | None, Meta(description="0, 1 or 2, as in SearXNG; if unset, SearXNG's default.")
    ] = None
    timeout_s: Annotated[float, Meta(gt=0, le=600, description="Longest time for a search, in seconds.")] = 20.0

"""From a page's bytes to its text, title and links: called in a process of its own, with little memory and time.

Pages are hostile input to a parser in native code, and a small page can become a huge tree.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

import msgspec

from corral.adapters.web.charsets import decoded
from corral.adapters.web.page_text import PageText

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

__all__ = ("PageBytes", "PageParts", "extract")

_MEMORY_BYTES: Final = 1 << 30
_CPU_S: Final = 5
_MOST_LINKS: Final = 500
_LONGEST_LINK: Final = 2000
_LONGEST_TITLE: Final = 300
_SKIPPED: Final = frozenset(
    [
        "script",
        "style",
        "noscript",
        "template",
        "svg",
        "math",
        "canvas",
        "iframe",
        "object",
        "embed",
        "audio",
        "video",
        "head",
        "button",
        "input",
        "select",
        "option",
        "textarea",
        "datalist",
        "dialog",
        "nav",
        "footer",
        "aside",
    ]
)
_HIDDEN_STYLES: Final = ("display:none", "visibility:hidden")


class PageBytes(msgspec.Struct, frozen=True, kw_only=True):
    """A page in HTML as it was received. `charset` is the header's, empty if it names none."""

    url: str
    data: bytes
    charset: str = ""


class PageParts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a page."""

    title: str = ""
    content: str = ""
    links: tuple[str, ...] = ()


def extract(page: PageBytes, on_progress: Callable[[float], None]) -> PageParts:
    """The visible text of a page, with marks for headings and lists, its title, and the links in it.

    Raises `MemoryError`; the process ends by a signal if it takes too long.
    """
    from selectolax.lexbor import LexborHTMLParser

    _limit_this_process()
    document = LexborHTMLParser(decoded(page.data, page.charset))
    root = _main_part(document)
    text = PageText()
    if root is not None:
        _walk(root, text)
    title = document.css_first("title") or document.css_first("h1")
    return PageParts(
        title="" if title is None else " ".join(title.text().split())[:_LONGEST_TITLE],
        content=text.finished(),
        links=tuple(_links(document, page.url)),
    )


def _limit_this_process() -> None:
    if sys.platform != "win32":
        import resource

        for kind, limit in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_CPU, _CPU_S)):
            with suppress(ValueError, OSError):  # a lower limit is in force, or the system has none
                resource.setrlimit(kind, (limit, limit + 1))  # at the first, a signal that says which limit it was


def _main_part(document: LexborHTMLParser) -> LexborNode | None:
    """The element that has the page's own text."""
    for selector in ("main", "[role=main]"):
        found = document.css(selector)
        if len(found) == 1:
            return found[0]
    return document.body


def _walk(root: LexborNode, text: PageText) -> None:
    """Visits the nodes below `root` in the order of the page, without recursion: pages may be nested deeply."""
    node: LexborNode | None = root
    while node is not None:
        tag = node.tag or ""
        into = None
        if node.is_text_node:
            text.add(node.text_content or "")
        elif node.is_element_node and (node is root or not _is_skipped(node, tag)):
            text.begin(tag)
            into = node.child
            if into is None:
                text.end(tag)
        if into is not None:
            node = into
            continue
        node = _after(node, root, text)


def _after(node: LexborNode, root: LexborNode, text: PageText) -> LexborNode | None:
    """The node that follows, once `node` and all below it have been visited; None if that was the last one."""
    while node.mem_id != root.mem_id:
        following = node.next
        if following is not None:
            return following
        parent = node.parent
        if parent is None:
            return None
        node = parent
        text.end(node.tag or "")
    return None


def _is_skipped(node: LexborNode, tag: str) -> bool:
    """Whether a reader of the page would not see an element, or would not count it among its text."""
    if tag in _SKIPPED:
        return True
    attributes = node.attributes
    style = (attributes.get("style") or "").replace(" ", "").lower()
    return (
        "hidden" in attributes or attributes.get("aria-hidden") == "true" or any(one in style for one in _HIDDEN_STYLES)
    )


def _links(document: LexborHTMLParser, url: str) -> Iterator[str]:
    base = document.css_first("base[href]")
    with suppress(ValueError):
        url = urljoin(url, (base.attributes.get("href") or "").strip()) if base is not None else url
    seen: set[str] = set()
    for node in document.css("a[href], area[href]"):
        try:
            link = urljoin(url, (node.attributes.get("href") or "").strip()).partition("#")[0]
            is_page = urlsplit(link).scheme in ("http", "https")
        except ValueError:
            continue
        if is_page and len(link) <= _LONGEST_LINK and link not in seen:
            seen.add(link)
            yield link
            if len(seen) == _MOST_LINKS:
                return

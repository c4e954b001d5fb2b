"""Which encoding a text of the web has, and the text itself."""

from __future__ import annotations

import codecs
import re
from typing import Final

__all__ = ("charset_of", "decoded")

_MARKS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
_PARAMETER = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
_KNOWN = re.compile(
    r"utf-8|utf-16(-[lb]e)?|iso8859-\d+|cp(125\d|866|874|932|949|950)|koi8-[rut]|mac-roman|gb2312|gbk|gb18030|"
    r"big5(hkscs)?|euc_(jp|kr)|shift_jis|iso2022_jp"
)
"""Python has other codecs under names that a server could send, some of which are slow or no encodings at all."""

_LOOKED_AT_BYTES: Final = 4096


def charset_of(content_type: str) -> str:
    """The charset that a ``Content-Type`` header names; empty if it names none."""
    found = _PARAMETER.search(content_type)
    return found[1] if found else ""


def decoded(data: bytes, stated: str) -> str:
    """The text: in the encoding of its byte order mark, else of the header (`stated`), else of its ``<meta>``.

    Otherwise it is UTF-8, or Windows-1252 if it is not. What cannot be decoded becomes U+FFFD.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    meta = _META.search(data[:_LOOKED_AT_BYTES])
    for name in (stated, meta[1].decode("ascii") if meta else ""):
        known = _known(name)
        if known is not None:
            return data.decode(known, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _known(name: str) -> str | None:
    """Python's name of an encoding; None if it is unknown. As in browsers, Latin-1 and ASCII mean Windows-1252."""
    try:
        found = codecs.lookup(name).name
    except (LookupError, ValueError):
        return None
    if found in ("iso8859-1", "ascii"):
        return "cp1252"
    return found if _KNOWN.fullmatch(found) else None

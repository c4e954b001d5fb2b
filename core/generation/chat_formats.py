"""Finds the chat format of each model: compiles it once, and remembers those that were used last."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from corral.core.errors import InvalidModelFile
from corral.core.generation.plain_format import PlainFormat
from corral.core.generation.rendering import FormatInThreads, RenderingThreads
from corral.core.generation.template_choice import choose_template
from corral.core.lru import LruDict
from corral.core.models.digests import Digest
from corral.core.models.view import ModelView
from corral.core.ports.chat import ChatFormat, ChatLanguage

__all__ = ("ChatFormats",)

_REMEMBERED = 64


class ChatFormats:
    """The formats of models whose chats are rendered here. The keys of `languages` are kinds of template texts."""

    def __init__(self, languages: Mapping[str, ChatLanguage]) -> None:
        self._languages = languages
        self._formats: LruDict[Digest, FormatInThreads] = LruDict(_REMEMBERED)
        self._threads = RenderingThreads()

    async def open(self, view: ModelView) -> FormatInThreads:
        """The model's format, compiled if need be. Raises `InvalidModelFile` for a template that does not compile."""
        digest = view.record.digest
        opened = self._formats.get(digest)
        if opened is None:
            compiled = await self._threads.open(partial(self._compile, view))
            opened = self._formats.get(digest) or compiled  # another request may have been faster
            self._formats.put(digest, opened)
        return opened

    def close(self) -> None:
        """Ends the threads without waiting."""
        self._threads.close()

    def _compile(self, view: ModelView) -> ChatFormat:
        text = choose_template(view.record, view.metadata, self._languages)
        if text is None:
            return PlainFormat()
        try:
            return self._languages[text.kind].compile(text, view.metadata)
        except InvalidModelFile as error:
            raise InvalidModelFile(f"{view.record.name}: {error.message}", error.remedy) from error

"""Finds the chat format of each model: compiles it once, and remembers those that were used last."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TypeVar

import msgspec

from corral.core.errors import InvalidModelFile, TemplateFailed, Unsupported
from corral.core.generation.parser_choice import ParserChoice, Recognised
from corral.core.generation.plain_format import PlainFormat
from corral.core.generation.rendering import FormatInThreads, RenderingThreads
from corral.core.generation.template_choice import choose_template
from corral.core.lru import LruDict
from corral.core.models.capabilities import template_fills_in
from corral.core.models.digests import Digest, digest_of
from corral.core.models.model import TemplateText
from corral.core.models.view import ModelView
from corral.core.ports.chat import ChatFormat, ChatLanguage

__all__ = ("ChatFormats", "OpenedFormat")

KeyT = TypeVar("KeyT")

_REMEMBERED = 64
_REMEMBERED_GIVEN = 8


class OpenedFormat(msgspec.Struct, frozen=True, kw_only=True):
    """A model's chat format, and the parsers that know its template."""

    format: FormatInThreads
    recognised: Recognised


class ChatFormats:
    """The formats of models whose chats are rendered here. The keys of `languages` are kinds of template texts."""

    def __init__(
        self, languages: Mapping[str, ChatLanguage], parsers: ParserChoice, go_template: bool | None = None
    ) -> None:
        self._languages = languages
        self._go_template = go_template
        self._parsers = parsers
        self._formats: LruDict[Digest, OpenedFormat] = LruDict(_REMEMBERED)
        # Apart from the models' own, which templates in requests must neither replace nor push out.
        self._given: LruDict[tuple[Digest, Digest], OpenedFormat] = LruDict(_REMEMBERED_GIVEN)
        self._threads = RenderingThreads()

    async def open(self, view: ModelView, template: str = "") -> OpenedFormat:
        """The model's format, compiled if need be, or that of a Go `template` in a request.

        Raises `InvalidModelFile` for a template that does not compile, and `TemplateFailed` for one in a request.
        """
        digest = view.record.digest
        if template:
            given = digest_of(template.encode(errors="surrogatepass"))
            return await self._remembered(self._given, (digest, given), view, template)
        opened = self._formats.get(digest)
        return opened or await self._remembered(self._formats, digest, view)

    async def _remembered(
        self, formats: LruDict[KeyT, OpenedFormat], key: KeyT, view: ModelView, template: str = ""
    ) -> OpenedFormat:
        opened = formats.get(key)
        if opened is None:
            compiled = await self._threads.run(partial(self._compile, view, template))
            opened = formats.get(key) or compiled  # another request may have been faster
            formats.put(key, opened)
        return opened

    def fill_in(self, view: ModelView) -> bool:
        """Whether the model's template has a place for the text after the answer."""
        return template_fills_in(self._chosen(view))

    def close(self) -> None:
        """Ends the threads without waiting."""
        self._threads.close()

    def _chosen(self, view: ModelView) -> TemplateText | None:
        return choose_template(view.record, view.metadata, self._languages, self._go_template)

    def _compile(self, view: ModelView, template: str) -> OpenedFormat:
        if template:
            return self._compile_given(view, TemplateText(kind="go", text=template))
        text = self._chosen(view)
        if text is None:
            return self._opened(PlainFormat(), Recognised())
        try:
            compiled = self._languages[text.kind].compile(text, view.metadata)
        except InvalidModelFile as error:
            raise InvalidModelFile(f"{view.record.name}: {error.message}", error.remedy) from error
        return self._opened(compiled, self._parsers.recognise(text))

    def _compile_given(self, view: ModelView, text: TemplateText) -> OpenedFormat:
        if text.kind not in self._languages:
            raise Unsupported("template: no installed plugin compiles Go templates", "omit it")
        try:
            compiled = self._languages[text.kind].compile(text, view.metadata)
        except InvalidModelFile as error:
            raise TemplateFailed(error.message, error.remedy) from error
        recognised = self._parsers.recognise(text)
        own = self._chosen(view)
        if recognised.reasoning is None and own is not None:
            recognised = self._parsers.recognise(own)  # the model thinks as it was trained to, however it is asked
        return self._opened(compiled, recognised)

    def _opened(self, compiled: ChatFormat, recognised: Recognised) -> OpenedFormat:
        return OpenedFormat(format=self._threads.format(compiled), recognised=recognised)

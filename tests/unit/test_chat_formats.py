"""Compiled chat formats: those of models, and those that requests bring along."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from corral.core.generation.chat_formats import ChatFormats
from corral.core.generation.parser_choice import ParserChoice
from corral.core.models.digests import digest_of
from corral.core.models.model import ModelMetadata, StoredModel, TemplateText
from corral.core.models.names import parse_name
from corral.core.models.view import ModelView
from corral.core.ports.chat import RenderedChat
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.prompts import TextPart, prompt_text
from corral.core.requests.requests import ChatRequest


class Literal:
    """A language whose templates are their own prompt; it counts what it compiles."""

    def __init__(self) -> None:
        self.compiled: list[str] = []

    def compile(self, text: TemplateText, metadata: ModelMetadata | None) -> Fixed:
        self.compiled.append(text.text)
        return Fixed(text.text)


class Fixed:
    interruptible = True

    def __init__(self, text: str) -> None:
        self._text = text

    def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
        return RenderedChat(prompt=(TextPart(text=self._text),))


@pytest.fixture
def language() -> Literal:
    return Literal()


@pytest.fixture
def formats(language: Literal) -> Iterator[ChatFormats]:
    opened = ChatFormats({"go": language}, ParserChoice({}, {}))
    yield opened
    opened.close()


def _view(manifest: str) -> ModelView:
    record = StoredModel(
        name=parse_name("tiny"),
        digest=digest_of(manifest.encode()),
        size_bytes=1,
        modified_at=0,
        format="gguf",
        template=TemplateText(kind="go", text="own"),
    )
    return ModelView(record=record, metadata=None, capabilities=())


def _prompt(formats: ChatFormats, view: ModelView, template: str = "") -> str:
    async def render() -> str:
        opened = await formats.open(view, template)
        return prompt_text((await opened.format.render(ChatRequest(messages=()), LOOKALIKES)).prompt)

    return asyncio.run(render())


def test_a_template_in_a_request_is_never_another_requests(formats: ChatFormats) -> None:
    """Not even a template that has the digest of the model's manifest, because it is that manifest."""
    view = _view('{"layers": []}')
    assert _prompt(formats, view, '{"layers": []}') == '{"layers": []}'
    assert _prompt(formats, view) == "own"
    assert _prompt(formats, view, '{"layers": []}') == '{"layers": []}'


def test_templates_in_requests_do_not_push_out_those_of_models(formats: ChatFormats, language: Literal) -> None:
    """However many there are, the model's own is compiled once; the same one again is not compiled again."""
    view = _view("{}")
    _prompt(formats, view)
    for number in range(100):
        for _ in range(2):
            assert _prompt(formats, view, f"t{number}") == f"t{number}"
    assert _prompt(formats, view) == "own"
    assert language.compiled == ["own", *(f"t{number}" for number in range(100))]

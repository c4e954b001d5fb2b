"""Chat formats made of Go templates."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from corral.adapters.templates.go.conversation import chat_variables, merged, turn_variables, turns
from corral.adapters.templates.go.evaluation import TemplateError
from corral.adapters.templates.go.execution import execute
from corral.adapters.templates.go.last_turn import cut_after_response, with_response
from corral.adapters.templates.go.limits import LimitExceeded, Limits
from corral.adapters.templates.go.strings import valid_text
from corral.core.errors import InvalidModelFile, InvalidRequest, TemplateFailed
from corral.core.go.templates.chat_templates import (
    compared_texts,
    parse_chat_template,
    thinking_tags,
    tool_call_tag,
    used_variables,
)
from corral.core.go.templates.nodes import Node
from corral.core.go.templates.parser import TemplateSyntaxError
from corral.core.ports.chat import RenderedChat
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.messages import Message
from corral.core.requests.requests import ChatRequest
from corral.core.requests.think_tags import ThinkTags
from corral.core.requests.typed_text import ROLES, TypedText, unmarked

__all__ = ("GoFormat",)

_LONGEST_SOURCE = 256 * 1024
_SURROGATES = re.compile("[\ud800-\udfff]")


class GoFormat:
    """A parsed template. Rendering counts its steps, so that no template can hang a server or fill its memory."""

    interruptible = True

    def __init__(self, source: str) -> None:
        """Raises `InvalidModelFile` with Go's text if the template does not compile."""
        if len(source) > _LONGEST_SOURCE:
            raise InvalidModelFile(
                f"chat template of {len(source)} characters", f"at most {_LONGEST_SOURCE} are allowed"
            )
        try:
            self._tree = parse_chat_template(source)
        except TemplateSyntaxError as error:
            raise InvalidModelFile(str(error)) from error
        variables = used_variables(self._tree)
        self._has_messages = "messages" in variables
        self._root: Sequence[Node] = self._tree.root
        if not self._has_messages and "response" not in variables:
            self._root = with_response(self._root)
        self._last_turn = cut_after_response(self._root)
        start, end = thinking_tags(self._tree)
        self._think = ThinkTags(start=start, end=end) if start and end else None
        self._call_tag = tool_call_tag(self._tree)
        self._roles = ROLES | compared_texts(self._tree)

    def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
        typed = _SoundText(control, roles=self._roles)
        try:
            text = self._rendered(request, typed)
        except TemplateError as error:
            raise TemplateFailed(unmarked(valid_text(str(error)))) from error
        except LimitExceeded as error:
            raise InvalidRequest(f"chat template: {error}") from error
        prompt = typed.prompt(valid_text(text))
        if self._think is None or request.think is False:
            return RenderedChat(prompt=prompt)
        tags = self._think
        return RenderedChat(
            prompt=prompt, parser="think_tags", think=tags, preserved_tokens=frozenset({tags.start, tags.end})
        )

    def _rendered(self, request: ChatRequest, typed: TypedText) -> str:
        whole = list(request.messages)
        if not self._has_messages:
            return self._legacy([typed.message(message) for message in merged(whole)], request, typed)
        text = self._chat(whole, request, typed)
        last = whole[-1] if whole else None
        if last is None or last.role != "assistant" or last.tool_calls or text.endswith(typed.text(last.content)):
            return text
        # The template has closed the turn that is to be continued, and perhaps begun another one.
        return self._chat(whole[:-1], request, typed) + self._begun(last, typed)

    def _chat(self, messages: list[Message], request: ChatRequest, typed: TypedText) -> str:
        marked = [typed.message(message) for message in merged(messages)]
        tools = [typed.tool(tool) for tool in request.tools]
        limits = Limits(typed.chars)
        data = chat_variables(marked, tools, request.think, limits, typed)
        return execute(self._tree, data, limits, typed, self._root)

    def _begun(self, message: Message, typed: TypedText) -> str:
        """The beginning of an answer that is to be continued: its thinking between the tags, and its text."""
        content = typed.text(message.content)
        if not message.thinking or self._think is None:
            return content
        return f"{self._think.start}\n{typed.text(message.thinking)}\n{self._think.end}\n\n{content}"

    def _legacy(self, messages: list[Message], request: ChatRequest, typed: TypedText) -> str:
        """Once per turn; in the last one, nothing that follows the answer."""
        limits = Limits(typed.chars)
        *earlier, last = turns(messages)
        texts = [execute(self._tree, turn_variables(turn, request.think), limits, typed, self._root) for turn in earlier]
        texts.append(execute(self._tree, turn_variables(last, request.think), limits, typed, self._last_turn))
        return "".join(texts)


class _SoundText(TypedText):
    """Replaces lone surrogates, which stand for invalid bytes in Go's strings."""

    def message(self, message: Message) -> Message:
        return super().message(msgspec.structs.replace(message, role=_sound(message.role)))

    def text(self, text: str, spared: frozenset[str] = frozenset()) -> str:
        return super().text(_sound(text), spared)


def _sound(text: str) -> str:
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)

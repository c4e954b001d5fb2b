"""Chat formats made of Go templates."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from corral.adapters.templates.go.conversation import chat_variables, fill_in_variables, turn_variables
from corral.adapters.templates.go.evaluation import TemplateError
from corral.adapters.templates.go.execution import execute
from corral.adapters.templates.go.last_turn import cut_after_response, with_response
from corral.adapters.templates.go.limits import LimitReached, Limits
from corral.adapters.templates.go.strings import valid_text
from corral.core.errors import InvalidModelFile, InvalidRequest, TemplateFailed
from corral.core.go.templates.chat_templates import (
    compared_texts,
    parse_chat_template,
    thinking_tags,
    tool_call_tag,
    used_variables,
)
from corral.core.go.templates.nodes import Node, Tree
from corral.core.go.templates.parser import TemplateSyntaxError
from corral.core.ports.chat import RenderedChat
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.messages import Message
from corral.core.requests.requests import ChatRequest
from corral.core.requests.think_tags import ThinkTags, think_tags_in, without_old_thinking
from corral.core.requests.turns import left_out, merged, turns
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
        self._has_system = "system" in variables
        self._has_suffix = "suffix" in variables
        self._root: Sequence[Node] = self._tree.root
        if not self._has_messages and "response" not in variables:
            self._root = with_response(self._root)
        self._last_turn = cut_after_response(self._root)
        self._think = _think_tags(self._tree)
        self._usual_think = think_tags_in(source)
        self._call_tag = tool_call_tag(self._tree)
        self._roles = ROLES | compared_texts(self._tree)

    def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
        typed = _SoundText(control, roles=self._roles)
        try:
            text = self._rendered(request, typed)
        except TemplateError as error:
            raise TemplateFailed(unmarked(valid_text(str(error)))) from error
        except LimitReached as error:
            raise InvalidRequest(f"chat template: {error}") from error
        ignored = () if self._has_messages else left_out(request.messages, system=self._has_system)
        chat = RenderedChat(prompt=typed.prompt(valid_text(text)), call_tag=self._call_tag, ignored=ignored)
        if self._think is None or self._think == self._usual_think or request.think is False:
            return chat  # core finds the usual tags itself
        return msgspec.structs.replace(chat, parsers=("think_tags",), think=self._think)

    def _rendered(self, request: ChatRequest, typed: TypedText) -> str:
        messages = _without_old_thinking(request.messages, self._think or self._usual_think)
        marked = [typed.message(message) for message in messages]
        if request.suffix and self._has_suffix:
            return self._filled_in(marked[-1].content if marked else "", request, typed)
        if not self._has_messages:
            return self._legacy(merged(marked), request, typed)
        text = self._chat(marked, request, typed)
        last = marked[-1] if marked else None
        if last is None or last.role != "assistant" or last.tool_calls or text.endswith(last.content):
            return text
        # The template has closed the turn that is to be continued, and perhaps begun another one.
        return self._chat(marked[:-1], request, typed) + self._begun(last)

    def _chat(self, messages: Sequence[Message], request: ChatRequest, typed: TypedText) -> str:
        tools = [typed.tool(tool) for tool in request.tools]
        limits = Limits(typed.chars)
        data = chat_variables(merged(messages), tools, request.think, limits, typed)
        return execute(self._tree, data, limits, typed, self._root)

    def _begun(self, message: Message) -> str:
        """The beginning of an answer that is to be continued: its thinking between the tags, and its text."""
        if not message.thinking or self._think is None:
            return message.content
        return f"{self._think.start}\n{message.thinking}\n{self._think.end}\n\n{message.content}"

    def _filled_in(self, prompt: str, request: ChatRequest, typed: TypedText) -> str:
        limits = Limits(typed.chars)
        data = fill_in_variables(prompt, typed.text(request.suffix), request.think)
        return execute(self._tree, data, limits, typed, self._root)

    def _legacy(self, messages: Sequence[Message], request: ChatRequest, typed: TypedText) -> str:
        """Once per turn; in the last one, nothing that follows the answer."""
        limits = Limits(typed.chars)
        *earlier, last = turns(messages)
        texts = [
            execute(self._tree, turn_variables(turn, request.think), limits, typed, self._root) for turn in earlier
        ]
        texts.append(execute(self._tree, turn_variables(last, request.think), limits, typed, self._last_turn))
        return "".join(texts)


def _think_tags(tree: Tree) -> ThinkTags | None:
    """The tags that the template shows. Harmony's channels are no tags: their parser knows them by the text."""
    start, end = thinking_tags(tree)
    return ThinkTags(start=start, end=end) if start and end and "<|channel|>" not in tree.source else None


def _without_old_thinking(messages: Sequence[Message], tags: ThinkTags | None) -> list[Message]:
    """Thinking in the text of earlier answers is cut off; the template itself decides about ``.Thinking``."""
    cleared = without_old_thinking(messages, tags)
    return [msgspec.structs.replace(one, thinking=old.thinking) for one, old in zip(cleared, messages, strict=True)]


class _SoundText(TypedText):
    """Replaces lone surrogates, which stand for invalid bytes in Go's strings."""

    def message(self, message: Message) -> Message:
        return super().message(msgspec.structs.replace(message, role=_sound(message.role)))

    def text(self, text: str, spared: frozenset[str] = frozenset()) -> str:
        return super().text(_sound(text), spared)


def _sound(text: str) -> str:
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)

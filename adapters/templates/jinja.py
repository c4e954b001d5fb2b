"""Chat templates in Jinja, as they come inside GGUF files and manifests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jinja2
import msgspec
from jinja2 import nodes

from corral.adapters.templates.sandbox import MeteredEnvironment
from corral.adapters.templates.thinking_switches import thinking_variables
from corral.adapters.templates.tool_variables import (
    ToolSpelling,
    message_variables,
    probed_spelling,
    tool_variables,
    with_named_ids,
)
from corral.core.errors import InvalidModelFile, InvalidRequest
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_ids import with_call_ids
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.messages import Message
from corral.core.requests.requests import ChatRequest
from corral.core.requests.think_tags import think_tags_in, without_old_thinking
from corral.core.requests.typed_text import ROLES, TypedText

__all__ = ("JinjaFormat",)

_LONGEST_SOURCE = 256 * 1024
_MOST_NODES = 16_000
"""Python compiles this many in a fraction of a second, during which no other thread runs. Large templates have
thousands.
"""

_PROBE = "corral-probe"

_INSPECTING = frozenset(
    {"endswith", "find", "index", "partition", "replace", "rpartition", "rsplit", "split", "startswith"}
)


class JinjaFormat:
    """A compiled template. Rendering counts its steps, so that no template can hang a server or fill its memory.

    If the template has no place for a system message, its text is put in front of the first user message. A template
    that reads contents only in parts, as in OpenAI's API, gets them so. Images are marks in the texts, for all of them:
    the engine adds the control tokens that the model has around images, and those of a template would come twice.
    """

    interruptible = True

    def __init__(self, source: str, *, bos_text: str = "", eos_text: str = "") -> None:
        """Raises `InvalidModelFile` that names the line if the template does not compile."""
        if len(source) > _LONGEST_SOURCE:
            raise InvalidModelFile(
                f"chat template of {len(source)} characters", f"at most {_LONGEST_SOURCE} are allowed"
            )
        self._constants = {"bos_token": bos_text, "eos_token": eos_text}
        self._environment = MeteredEnvironment()
        try:
            parsed = self._environment.parse(source)
            self._parts = _checked_size(parsed)
            self._inspected = _inspected_texts(parsed)
            self._compared = _compared_texts(parsed)
            self._names = frozenset(name.name for name in parsed.find_all(nodes.Name))
            self._template = self._environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise InvalidModelFile(f"chat template, line {error.lineno}: {error.message}") from error
        except (RecursionError, MemoryError, SyntaxError, ValueError) as error:
            raise InvalidModelFile(f"chat template does not compile: {error}") from error
        calls = "tool_calls" in source
        self._spelling = probed_spelling(lambda variables: self._run(variables, 0)) if calls else ToolSpelling()
        self._in_parts = not self._shows({"role": "user", "content": _PROBE}) and self._shows(
            {"role": "user", "content": _parts_of(_PROBE)}
        )
        self._places_system = self._probe_system()
        self._think = think_tags_in(source)

    def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
        messages = request.messages
        continued = bool(messages) and messages[-1].role == "assistant" and not messages[-1].tool_calls
        linked = with_call_ids(messages[:-1] if continued else messages)
        if self._spelling.named_ids:
            linked = with_named_ids(linked)
        turns = without_old_thinking(linked, self._think)
        if not self._places_system:
            turns = _fold_system(turns)
        typed = TypedText(control, spared=self._inspected, roles=ROLES | self._compared)
        spelt = [self._variables(typed.message(turn)) for turn in turns]
        tools = [tool_variables(typed.tool(tool)) for tool in request.tools] or None
        variables: dict[str, Any] = {"messages": spelt, "tools": tools}
        variables |= thinking_variables(self._names, self._compared, request.think, request.thinking_budget)
        if request.earlier_ids:  # they begin with BOS already
            variables["bos_token"] = ""
        text = self._run(variables, typed.chars)
        if continued:
            text = self._with_beginning(text, messages[-1], typed)
        elif request.think is False:
            text = self._without_thinking(text)
        return RenderedChat(prompt=typed.prompt(text))

    def _with_beginning(self, text: str, message: Message, typed: TypedText) -> str:
        """Adds the beginning of an answer that is to be continued: its thinking between the tags, and its text."""
        content = typed.text(message.content)
        if self._think is None:
            return text + content
        if not message.thinking:
            return self._without_thinking(text) + content
        thinking = f"\n{typed.text(message.thinking)}\n{self._think.end}\n\n"
        opened = text.rstrip()
        if opened.endswith(self._think.start):
            return opened + thinking + content
        return text + self._think.start + self._think.label + thinking + content

    def _without_thinking(self, text: str) -> str:
        """Closes the thinking at once if the template always opens it: that is how such models skip it."""
        if self._think is None or not (opened := text.rstrip()).endswith(self._think.start):
            return text
        return f"{opened}\n\n{self._think.end}\n\n"

    def _run(self, variables: Mapping[str, Any], input_chars: int) -> str:
        whole = {**self._constants, "add_generation_prompt": True, **variables}
        try:
            return self._environment.run(self._template, whole, input_chars, self._parts)
        except Exception as error:  # it can be anything, since this code came with a model
            complaint = "its recursion never ends" if isinstance(error, RecursionError) else str(error)
            raise InvalidRequest(f"chat template: {complaint or type(error).__name__}") from error

    def _probe_system(self) -> bool:
        """Whether a system message reaches the prompt: some templates drop it, some refuse it."""
        system, user = (
            self._variables(Message(role=role, content=text)) for role, text in (("system", _PROBE), ("user", "user"))
        )
        return self._shows(system, user)

    def _shows(self, *messages: dict[str, Any]) -> bool:
        """Whether the probe reaches the prompt as text."""
        try:
            rendered = self._run({"messages": list(messages), "tools": None}, 0)
        except InvalidRequest:
            return False
        return _PROBE in rendered and repr(_PROBE) not in rendered

    def _variables(self, message: Message) -> dict[str, Any]:
        variables = message_variables(message, self._spelling)
        return variables | {"content": _parts_of(message.content)} if self._in_parts else variables


def _fold_system(messages: list[Message]) -> list[Message]:
    folded = [message for message in messages if message.role == "system" and (message.content or message.images)]
    systems = [message.content for message in folded]
    images = tuple(image for message in folded for image in message.images)
    turns = [message for message in messages if message.role != "system"]
    if not systems:
        return turns
    for number, turn in enumerate(turns):
        if turn.role == "user":
            content = "\n\n".join((*systems, turn.content))
            turns[number] = msgspec.structs.replace(turn, content=content, images=(*images, *turn.images))
            return turns
    return [Message(role="user", content="\n\n".join(systems), images=images), *turns]


def _parts_of(content: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": content}]


def _checked_size(template: nodes.Template) -> int:
    """The number of a template's parts. Raises `ValueError` for too many."""
    waiting: list[nodes.Node] = [template]
    count = 0
    while waiting:
        count += 1
        if count > _MOST_NODES:
            raise ValueError(f"it has more than {_MOST_NODES} parts")
        waiting.extend(waiting.pop().iter_child_nodes())
    return count


def _compared_texts(template: nodes.Template) -> frozenset[str]:
    """Texts that a template compares values with; the roles that it knows are among them."""
    return frozenset(
        constant.value
        for compare in template.find_all(nodes.Compare)
        for constant in compare.find_all(nodes.Const)
        if isinstance(constant.value, str)
    )


def _inspected_texts(template: nodes.Template) -> frozenset[str]:
    """Texts that a template looks for in other texts: ``'x' in content``, ``content.split('x')``."""
    found: set[str] = set()

    def collect(candidates: Iterable[nodes.Node]) -> None:
        found.update(node.value for node in candidates if isinstance(node, nodes.Const) and isinstance(node.value, str))

    for compare in template.find_all(nodes.Compare):
        if any(operand.op in ("in", "notin") for operand in compare.ops):
            collect([compare.expr])
    for call in template.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr in _INSPECTING:
            collect(call.args)
    for filtered in template.find_all(nodes.Filter):
        if filtered.name == "replace":
            collect(filtered.args)
    return frozenset(found)

"""Chat templates in Jinja, as they come inside GGUF files and manifests.

Text that people typed goes through the template as it is, except that control tokens in it are put between two marks.
So the template may trim, test and join texts as it likes, and afterwards it is known which control tokens are its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes

from corral.adapters.templates.marks import has_marks, marked, marked_tokens, parts_of
from corral.adapters.templates.sandbox import MeteredEnvironment
from corral.core.errors import InvalidModelFile, InvalidRequest
from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.messages import Message, Tool
from corral.core.requests.prompts import Prompt, TextPart, joined

__all__ = ("JinjaTemplate", "JinjaTemplates")

_LONGEST_SOURCE = 256 * 1024
_MOST_NODES = 16_000
"""What Python compiles in a fraction of a second, in which no other thread runs. Large templates have some thousand."""

_ROLES = frozenset({"system", "user", "assistant", "tool"})
_INSPECTING = frozenset(
    {"endswith", "find", "index", "partition", "replace", "rpartition", "rsplit", "split", "startswith"}
)


class JinjaTemplates:
    """Picks the manifest's Jinja template if it has one, else the weights' own. A `ChatTemplateFactory`."""

    def __call__(self, record: StoredModel, metadata: ModelMetadata | None) -> JinjaTemplate | None:
        source, bos_text, eos_text = None, "", ""
        if metadata is not None:
            source, bos_text, eos_text = metadata.chat_template, metadata.bos_text, metadata.eos_text
        if record.template is not None and record.template.kind == "jinja":
            source = record.template.text
            bos_text, eos_text = record.template.bos_text or bos_text, record.template.eos_text or eos_text
        return JinjaTemplate(source, name=str(record.name), bos_text=bos_text, eos_text=eos_text) if source else None


class JinjaTemplate:
    """A compiled template. Rendering counts its steps, so that no template can hang a server or fill its memory.

    A system message goes to the template as such if it has a place for one, else in front of the first user message.
    """

    def __init__(self, source: str, *, name: str = "model", bos_text: str = "", eos_text: str = "") -> None:
        """Raises `InvalidModelFile` naming the line for a template that does not compile."""
        if len(source) > _LONGEST_SOURCE:
            raise InvalidModelFile(
                f"{name}: chat template of {len(source)} characters", f"at most {_LONGEST_SOURCE} are allowed"
            )
        self.source = source
        self._constants = {"bos_token": bos_text, "eos_token": eos_text}
        self._environment = MeteredEnvironment()
        try:
            parsed = self._environment.parse(source)
            _check_size(parsed)
            self._inspected = _inspected_texts(parsed)
            self._roles = _ROLES | _compared_texts(parsed)
            self._template = self._environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise InvalidModelFile(f"{name}: chat template, line {error.lineno}: {error.message}") from error
        except (RecursionError, MemoryError, SyntaxError, ValueError) as error:
            raise InvalidModelFile(f"{name}: chat template does not compile: {error}") from error
        self._places_system = self._probe_system()

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        variables: Mapping[str, Any] | None = None,
        control: ControlTokens = LOOKALIKES,
    ) -> Prompt:
        continued = bool(messages) and messages[-1].role == "assistant" and not messages[-1].tool_calls
        turns = list(messages[:-1] if continued else messages)
        if not self._places_system:
            turns = _fold_system(turns)
        scope = _Marking(control, self._inspected, self._roles)
        spelt = [scope.message(turn) for turn in turns]
        described = [scope.tool(tool) for tool in tools] or None
        text = self._run({"messages": spelt, "tools": described, **(variables or {})}, scope.chars)
        parts = parts_of(text, control) if scope.used else [TextPart(text=text, parse_special=True)]
        if continued:
            parts += control.guarded(messages[-1].content)
        return joined(parts)

    def _run(self, variables: Mapping[str, Any], input_chars: int) -> str:
        whole = {**self._constants, "add_generation_prompt": True, **variables}
        try:
            return self._environment.run(self._template, whole, input_chars)
        except Exception as error:  # anything at all: this is code that came with a model
            complaint = "its recursion never ends" if isinstance(error, RecursionError) else str(error)
            raise InvalidRequest(f"chat template: {complaint or type(error).__name__}") from error

    def _probe_system(self) -> bool:
        """Whether a system message reaches the prompt: some templates drop it, some refuse it."""
        turns = [{"role": "system", "content": "corral-probe"}, {"role": "user", "content": "user"}]
        try:
            return "corral-probe" in self._run({"messages": turns, "tools": None}, 0)
        except InvalidRequest:
            return False


def _fold_system(messages: list[Message]) -> list[Message]:
    systems = [message.content for message in messages if message.role == "system" and message.content]
    turns = [message for message in messages if message.role != "system"]
    if not systems:
        return turns
    for number, turn in enumerate(turns):
        if turn.role == "user":
            turns[number] = Message(role="user", content="\n\n".join((*systems, turn.content)))
            return turns
    return [Message(role="user", content="\n\n".join(systems)), *turns]


class _Marking:
    """Turns messages into what templates read, marking control tokens. `used`: there was one.

    What the template itself searches answers for (``</think>``) stays unmarked in them: a mark would come between the
    text that it cuts off there and the whitespace that it strips then. A role that the template does not know is marked
    as a whole, since templates make control tokens of roles (``<|user|>``).
    """

    def __init__(self, control: ControlTokens, inspected: frozenset[str], roles: frozenset[str]) -> None:
        self._control = control
        self._inspected = inspected
        self._roles = roles
        self.used = False
        self.chars = 0

    def message(self, message: Message) -> dict[str, Any]:
        spared = self._inspected if message.role == "assistant" else frozenset[str]()
        spelt: dict[str, Any] = {"role": self._role(message.role), "content": self._text(message.content, spared)}
        if message.thinking is not None:
            spelt["thinking"] = spelt["reasoning_content"] = self._text(message.thinking, spared)
        if message.tool_calls:
            spelt["tool_calls"] = [
                {
                    "type": "function",
                    "id": None if call.id is None else self._text(call.id),
                    "function": {"name": self._text(call.name), "arguments": self._data(dict(call.arguments))},
                }
                for call in message.tool_calls
            ]
        if message.tool_name is not None:
            spelt["name"] = self._text(message.tool_name)
        if message.tool_call_id is not None:
            spelt["tool_call_id"] = self._text(message.tool_call_id)
        return spelt

    def tool(self, tool: Tool) -> dict[str, Any]:
        function = {
            "name": self._text(tool.name),
            "description": self._text(tool.description),
            "parameters": self._data(dict(tool.parameters)),
        }
        return {"type": "function", "function": function}

    def _data(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self._text(str(key)): self._data(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._data(item) for item in value]
        return value

    def _role(self, role: str) -> str:
        self.chars += len(role)
        if role not in self._roles:
            self.used = True
            return marked(role)
        return self._text(role)

    def _text(self, text: str, spared: frozenset[str] = frozenset()) -> str:
        self.chars += len(text)
        made = marked_tokens(text, self._control, spared)
        self.used |= has_marks(made)
        return made


def _check_size(template: nodes.Template) -> None:
    """Raises `ValueError` for one with too many parts."""
    waiting: list[nodes.Node] = [template]
    count = 0
    while waiting:
        count += 1
        if count > _MOST_NODES:
            raise ValueError(f"it has more than {_MOST_NODES} parts")
        waiting.extend(waiting.pop().iter_child_nodes())


def _compared_texts(template: nodes.Template) -> frozenset[str]:
    """Texts that a template compares something with: the roles that it knows are among them."""
    return frozenset(
        constant.value
        for compare in template.find_all(nodes.Compare)
        for constant in compare.find_all(nodes.Const)
        if isinstance(constant.value, str)
    )


def _inspected_texts(template: nodes.Template) -> frozenset[str]:
    """The texts a template looks for in other texts: ``'x' in content``, ``content.split('x')``."""
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

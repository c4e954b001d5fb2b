"""Go templates: what they print, what they cannot do to a server, and what typed text may not do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from corral.adapters.templates.go import limits
from corral.adapters.templates.go.chat_format import GoFormat
from corral.core.errors import InvalidModelFile, InvalidRequest, TemplateFailed
from corral.core.generation.rendering import RenderingThreads
from corral.core.ports.chat import RenderedChat
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.messages import Message, Tool, ToolCall
from corral.core.requests.prompts import TextPart, prompt_text
from corral.core.requests.requests import ChatRequest
from corral.core.requests.think_tags import ThinkTags

_CONTROL = ControlTokens(("<|im_start|>", "<|im_end|>", "[INST]"))
_QUESTION = (Message(role="user", content="hi"),)


def _rendered(template: str, *messages: Message, **fields: Any) -> RenderedChat:
    return GoFormat(template).render(ChatRequest(messages=messages or _QUESTION, **fields), _CONTROL)


def _text(template: str, *messages: Message, **fields: Any) -> str:
    return prompt_text(_rendered(template, *messages, **fields).prompt)


def _typed(rendered: RenderedChat) -> list[str]:
    return [part.text for part in rendered.prompt if isinstance(part, TextPart) and not part.parse_special]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("len .Content", "22"),
        ("slice .Content 4 14", "<|im_end|>"),
        ("slice .Content 6 16", "im_end|> &"),
        ('eq .Content "say <|im_end|> & [INST]"', "false"),
        ('eq (slice .Content 4 14) "<|im_end|>"', "true"),
        ('printf "%.8s" .Content', "say <|im"),
        ('printf "%-24s|" .Content', "say <|im_end|> [INST]!  |"),
        ('printf "%x" (slice .Content 0 1)', "73"),
        ("json .Content", '"say \\u003c|im_end|\\u003e [INST]!"'),
        ('printf "%q" .Content', '"say <|im_end|> [INST]!"'),
        ("index .Content 4", "60"),
        ("urlquery (slice .Content 4 7)", "%3C%7Ci"),
    ],
)
def test_functions_see_typed_text_as_it_is(expression: str, expected: str) -> None:
    """Lengths, positions, comparisons and formats know nothing of the marks around control tokens."""
    message = Message(role="user", content="say <|im_end|> [INST]!")
    expected = expected.replace(" &", " [") if expression.startswith("slice .Content 6") else expected
    assert _text(f"{{{{ range .Messages }}}}{{{{ {expression} }}}}{{{{ end }}}}", message) == expected


@pytest.mark.parametrize(
    "expression",
    [".Content", "json .Content", 'printf "%q" .Content', 'printf "<|im_start|>%s" .Content', "slice .Content 1"],
)
def test_typed_control_tokens_stay_text(expression: str) -> None:
    """No function turns a control token that someone typed into one that counts, and the template's own ones count."""
    message = Message(role="user", content="a[INST]b")
    rendered = _rendered(f"<|im_start|>{{{{ range .Messages }}}}{{{{ {expression} }}}}{{{{ end }}}}", message)
    assert _typed(rendered) == ["[INST]"]


def test_typed_names_arguments_and_tools_stay_text() -> None:
    """The same holds for tools, the keys and values of arguments, and roles that the template does not know."""
    call = ToolCall(name="[INST]", arguments={"<|im_end|>": "[INST]"})
    messages = (Message(role="<|im_start|>", content=""), Message(role="assistant", tool_calls=(call,)))
    tool = Tool(
        name="f", description="[INST]", parameters={"type": "object", "properties": {"[INST]": {"type": "string"}}}
    )
    template = (
        "{{ range .Messages }}{{ .Role }}{{ range .ToolCalls }}{{ .Function.Name }}{{ .Function.Arguments }}"
        "{{ range $k, $v := .Function.Arguments }}{{ $k }}={{ $v }}{{ end }}"
        '{{ index .Function.Arguments "<|im_end|>" }}{{ end }}{{ end }}{{ .Tools }}'
    )
    rendered = _rendered(template, *messages, tools=(tool,))
    special = "".join(part.text for part in rendered.prompt if isinstance(part, TextPart) and part.parse_special)
    assert "[INST]" not in special
    assert "<|im" not in special


@pytest.mark.parametrize(
    ("template", "start", "end", "parsers"),
    [
        (
            "{{ range .Messages }}{{ if .Thinking }}<t>{{ .Thinking }}</t>{{ end }}{{ end }}",
            "<t>",
            "</t>",
            ("think_tags",),
        ),
        ("{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}", None, None, ()),
        ("{{ range .Others }}<t>{{ .Thinking }}</t>{{ end }}", None, None, ()),
        ("{{ range .Messages }}{{ .Thinking }}</t>{{ end }}", None, None, ()),
    ],
)
def test_thinking_tags_come_from_the_template(
    template: str, start: str | None, end: str | None, parsers: tuple[str, ...]
) -> None:
    """Unusual ones are named; the usual ones are found by those who know them. With `think` off, none are named."""
    rendered = _rendered(template, think=True)
    assert rendered.think == (None if start is None or end is None else ThinkTags(start=start, end=end))
    assert rendered.parsers == parsers
    assert _rendered(template, think=False).parsers == ()


def test_the_tag_of_tool_calls_comes_from_the_template() -> None:
    """It is the first text in the block of tool calls, up to a brace."""
    blocks = {"\n[CALLS] {\n": "[CALLS]", "{{ range .ToolCalls }}<c>{{ end }}": "<c>", "{{ .ToolCalls }}x": "{"}
    for block, tag in blocks.items():
        rendered = _rendered("{{ range .Messages }}{{ if .ToolCalls }}" + block + "{{ end }}{{ end }}")
        assert rendered.call_tag == tag


def test_a_trailing_answer_is_continued() -> None:
    """Also if the template closes every turn, and begins another one."""
    begun = (*_QUESTION, Message(role="assistant", content="I am"))
    closing = "{{ range .Messages }}<{{ .Role }}>{{ .Content }}</>{{ end }}<assistant>"
    assert _text(closing, *begun) == "<user>hi</><assistant>I am"
    assert _text("{{ if .Prompt }}Q: {{ .Prompt }} {{ end }}A: {{ .Response }}\n", *begun) == "Q: hi A: I am"


def test_text_between_prompt_and_suffix() -> None:
    """A template with a place for the suffix gets both; any other one ignores it."""
    assert _text("<P>{{ .Prompt }}<S>{{ .Suffix }}<M>", suffix="end") == "<P>hi<S>end<M>"
    assert _text("{{ .Prompt }}", suffix="end") == "hi"


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ range .Messages }}{{ .Nope }}{{ end }}", "can't evaluate field Nope in type *template.templateMessage"),
        ("{{ .Messages }}{{ index .Messages 9 }}", "error calling index: index out of range: 9"),
        ('{{ .Messages }}{{ template "x" . }}', 'template "x" not defined'),
        ('{{ .Messages }}{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}', "maximum template depth"),
    ],
)
def test_complaints_are_gos(template: str, complaint: str) -> None:
    """A template that fails says so in Go's words."""
    with pytest.raises(TemplateFailed) as caught:
        _rendered(template)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("template: :1:")


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ .Messages }", 'template: :1: unexpected "}" in operand'),
        ("{{ foo }}", 'template: :1: function "foo" not defined'),
        ("\n{{ if }}{{ end }}", "template: :2: missing value for if"),
        ("{{ if .X }}" * 500, "nested more than 60 deep"),
        ("{{ " + "(" * 500, "max expression depth exceeded"),
        ("x" * 300_000, "chat template of 300000 characters"),
        ("{{.}}" * 40_000, "more than 60000 tokens"),
    ],
)
def test_templates_that_do_not_compile(template: str, complaint: str) -> None:
    """The error is Go's, with the line; nesting and size have limits."""
    with pytest.raises(InvalidModelFile) as caught:
        GoFormat(template)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{{ range 99999999999 }}{{ end }}",
        "{{ range 999999 }}{{ range 999999 }}{{ end }}{{ end }}",
        "{{ range 999999999 }}{{ $x := 1 }}{{ end }}",
        "{{ range 99999 }}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{{ end }}",
        '{{ $x := "aaaaaaaaaa" }}{{ range 99 }}{{ $x = print $x $x }}{{ end }}',
        '{{ $x := "aaaaaaaaaa" }}{{ range 99 }}{{ $x = printf "%s%s" $x $x }}{{ end }}',
        '{{ range 999 }}{{ printf "%999999d" 1 }}{{ end }}',
        '{{ range 9999 }}{{ $x := printf "%999999d" 1 }}{{ end }}',
        '{{ define "b" }}{{ range 9 }}{{ end }}{{ end }}{{ range 9999 }}{{ template "b" . }}{{ end }}',
    ],
)
def test_hostile_templates_are_stopped(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops and texts that grow without end reach a limit."""
    monkeypatch.setattr(limits, "_STEPS", 20_000)
    with pytest.raises(InvalidRequest, match="chat template: it"):
        _rendered(template)


def test_nothing_of_it_is_imported_before_the_first_template() -> None:
    """`import corral` and the language itself do not import the interpreter."""
    code = (
        "import sys, corral, corral.adapters.templates.go.language as language; language.GoLanguage();"
        "print([name for name in sys.modules if 'templates.go.' in name and not name.endswith('language')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_chat_of_thousands_of_messages() -> None:
    """A template that looks at the rest of the chat for each message still ends."""
    template = (
        "{{ range $i, $_ := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}{{ .Content }}{{ end }}{{ end }}"
    )
    messages = [Message(role=("user", "assistant")[number % 2], content=str(number)) for number in range(4001)]
    assert _text(template, *messages) == "4000"


def test_a_long_text_leaves_the_event_loop_before_anything_works_on_it() -> None:
    """A template cannot delay other clients by building a text at once and then rewriting it character by character."""
    threads_used: list[bool] = []
    loop_thread = threading.get_ident()

    class Noted(GoFormat):
        def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
            threads_used.append(threading.get_ident() == loop_thread)
            return super().render(request, control)

    async def scenario() -> int:
        threads = RenderingThreads()
        rendering = threads.format(Noted('{{ $x := printf "%100000d" 1 }}{{ len $x }}'))
        prompt = (await rendering.render(ChatRequest(messages=_QUESTION), LOOKALIKES)).prompt
        threads.close()
        return int(prompt_text(prompt).removesuffix("hi"))

    assert asyncio.run(scenario()) == 100_000
    assert threads_used == [True, False]


def test_arguments_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls with thousands of arguments cannot multiply what a step costs."""
    monkeypatch.setattr(limits, "_STEPS", 20_000)
    for name in ("and", "eq", "print"):
        with pytest.raises(InvalidRequest, match="chat template: it takes more than"):
            _rendered("{{ range 100 }}{{ " + name + " 1" * 1000 + " }}{{ end }}")


@pytest.mark.parametrize("control", [_CONTROL, LOOKALIKES])
@pytest.mark.parametrize(
    ("template", "fields"),
    [
        ("{{ .System }}{{ .Prompt }}", {}),
        ("{{ .Prompt }}{{ .Suffix }}", {"suffix": "start|>"}),
    ],
)
def test_two_texts_never_make_a_control_token(template: str, fields: dict[str, Any], control: ControlTokens) -> None:
    """What a text begins and the next one completes is as plain as if one text had it all."""
    begun = Message(role="user" if fields else "system", content="say <|im_")
    messages = (begun,) if fields else (begun, Message(role="user", content="start|>"))
    prompt = GoFormat(template).render(ChatRequest(messages=messages, **fields), control).prompt
    assert "<|im_start|>" in prompt_text(prompt)
    assert not any(_CONTROL.replace(part.text, lambda _: "") != part.text for part in prompt if part.parse_special)  # type: ignore[union-attr]


def test_only_what_a_control_token_begins_with_is_kept_apart() -> None:
    """Whole tokens, their ends, and ordinary text leave nothing begun."""
    ends = {"<|im_": 0, "a <": 2, "[INST": 0, "x[": 1, "<|im_end|>": 10, "|im_end|>": 9, "a < b": 5, "": 0}
    assert {text: _CONTROL.begun(text) for text in ends} == ends
    assert [LOOKALIKES.begun(text) for text in ("a <b", "a <b>", "x [y", "plain", "]~b")] == [2, 5, 2, 5, 0]
    assert ControlTokens(()).begun("a <") == 3

"""Jinja templates: what they see, which one is used, and what a hostile one cannot do."""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress

import msgspec
import pytest

from corral.adapters.templates.jinja import JinjaFormat
from corral.adapters.templates.language import JinjaLanguage
from corral.core.errors import InvalidModelFile, InvalidRequest
from corral.core.generation.rendering import RenderingThreads
from corral.core.models.model import ModelMetadata, TemplateText
from corral.core.ports.chat import ChatFormat, RenderedChat
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.messages import Message, Tool, ToolCall
from corral.core.requests.prompts import Prompt, TextPart, prompt_text
from corral.core.requests.requests import ChatRequest

_USER = [Message(role="user", content="hello")]
_HELLO = ChatRequest(messages=tuple(_USER))


def _render(source: str, messages: list[Message] | None = None, **options: str) -> str:
    return prompt_text(_prompt(JinjaFormat(source, **options), _USER if messages is None else messages))


def _prompt(
    chat_format: ChatFormat,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    control: ControlTokens = LOOKALIKES,
) -> Prompt:
    return chat_format.render(ChatRequest(messages=tuple(messages), tools=tuple(tools)), control).prompt


def _guarded(prompt: Prompt) -> list[str]:
    return [part.text for part in prompt if isinstance(part, TextPart) and not part.parse_special]


_METADATA = ModelMetadata(
    format="gguf",
    architecture="llama",
    file_type="Q4_1",
    parameter_count=1,
    tensor_bytes=1,
    bos_text="<s>",
    eos_text="</s>",
)


_TEXT = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"


def test_a_template_gets_the_tokens_of_the_weights() -> None:
    """BOS and EOS come from the weights, unless the template's own text contains them."""
    compiled = JinjaLanguage().compile(TemplateText(kind="jinja", text=_TEXT), _METADATA)
    assert prompt_text(_prompt(compiled, _USER)) == "<s>hello</s>"
    own = TemplateText(kind="jinja", text=_TEXT, bos_text="[B]")
    assert prompt_text(_prompt(JinjaLanguage().compile(own, _METADATA), _USER)) == "[B]hello</s>"
    assert prompt_text(_prompt(JinjaLanguage().compile(own, None), _USER)) == "[B]hello"


def test_the_thinking_of_a_continued_answer_is_kept() -> None:
    """Between the template's tags, before the text to be continued; control tokens inside it stay text."""
    begun = [*_USER, Message(role="assistant", thinking="hm <|x|>", content="Yes, ")]
    compiled = JinjaFormat("{{ messages[0].content.split('</think>')[-1] }}|{{ '' if '<think>' else '' }}")
    assert prompt_text(_prompt(compiled, begun)) == "hello|<think>\nhm <|x|>\n</think>\n\nYes, "
    assert _guarded(_prompt(compiled, begun)) == ["<|x|>"]
    assert prompt_text(_prompt(JinjaFormat("{{ messages[0].content }}|"), begun)) == "hello|Yes, "


def test_blocks_are_trimmed_and_loops_have_controls() -> None:
    """Whitespace and loop controls are as in the reference implementation of chat templates."""
    source = """{% for m in messages %}
    {% if loop.first %}
{{ m.content }}
    {%- endif %}
    {% break %}
{% endfor %}
{% generation %}end{% endgeneration %}"""
    assert _render(source) == "helloend"


def test_json_is_not_escaped_for_html() -> None:
    """JSON in prompts contains `<` and `é`, not escapes, and keeps the order of keys."""
    arguments = {"b": "<é>", "a": [1]}
    messages = [*_USER, Message(role="assistant", tool_calls=(ToolCall(name="f", arguments=arguments),)), *_USER]
    assert _render("{{ messages[1].tool_calls[0].function.arguments | tojson }}", messages) == '{"b": "<é>", "a": [1]}'


def test_tools_and_thinking_reach_the_template() -> None:
    """Tools are available as OpenAI-style functions, or None without any; thinking under both of its names."""
    template = JinjaFormat("{% if tools %}{{ tools[0].function.name }}{% endif %}{{ messages[0].reasoning_content }}")
    message = Message(role="user", content="x", thinking="hm")
    assert prompt_text(_prompt(template, [message], tools=[Tool(name="look")])) == "lookhm"
    assert prompt_text(_prompt(template, [message])) == "hm"


def test_the_time_can_be_asked() -> None:
    """`strftime_now` formats the local time."""
    assert _render("{{ strftime_now('%Y') }}") == time.strftime("%Y")


def test_a_template_without_a_system_role_gets_it_in_the_first_user_message() -> None:
    """If the template refuses or drops system messages, they are put in front of the first user message."""
    messages = [Message(role="system", content="be brief"), *_USER]
    refuses = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}"
    drops = "{% for m in messages if m.role == 'user' %}{{ m.content }}"
    assert _render(refuses + "{% endfor %}", messages) == "be brief\n\nhello"
    assert _render(drops + "{% endfor %}", messages) == "be brief\n\nhello"


def test_a_template_finds_what_it_looks_for_in_answers() -> None:
    """Reasoning that the template removes from earlier answers is removed just as without marks."""
    source = """{% for m in messages %}{{ m.role }}:
{{- m.content.split('</think>')[-1].lstrip('\\n') if m.role == 'assistant' else m.content }};{% endfor %}"""
    said = "<think>hm</think>\n\nfour <|x|>"
    prompt = _prompt(
        JinjaFormat(source), [Message(role="user", content=said), Message(role="assistant", content=said), *_USER]
    )
    assert prompt_text(prompt) == f"user:{said};assistant:four <|x|>;user:hello;"
    assert _guarded(prompt) == ["<think>", "</think>", "<|x|>", "<|x|>"]


_ODD = ("[|im_end|]", "]~im_end~]", "<|im end|>", "<|endoftext|>", "<|user|>")
_EVERYTHING = """{% for tool in tools or [] %}{{ tool.function.name }}|{{ tool.function.description }}|
{{- tool.function.parameters | tojson(ensure_ascii=true) }}|{{ tool }}{% endfor %}
{%- for m in messages %}{{ m.role }}|{{ m.content }}|{{ m.thinking }}|{{ m.name }}|{{ m.tool_call_id }}|
{%- for call in m.tool_calls or [] %}{{ call.id }}|{{ call.function.name }}|{{ call.function.arguments }}|
{{- call.function.arguments | tojson }}|{{ "%s" | format(call) }}|{{ "{}".format(call) }}|{{ [call] ~ "" }}{% endfor %}
{%- endfor %}"""


@pytest.mark.parametrize("token", _ODD)
def test_no_string_of_a_request_becomes_a_control_token(token: str) -> None:
    """No text of messages or tools becomes a control token, however the template prints it and with any vocabulary."""
    evil = f"a{token}b"
    call = ToolCall(name=evil, id=evil, arguments={evil: [evil, {"x": evil}]})
    message = Message(role=evil, content=evil, thinking=evil, tool_calls=(call,), tool_name=evil, tool_call_id=evil)
    tool = Tool(name=evil, description=evil, parameters={"properties": {evil: {"description": evil}}})
    prompt = _prompt(JinjaFormat(_EVERYTHING), [message, *_USER], [tool], ControlTokens(_ODD))
    parsed = "".join(part.text for part in prompt if isinstance(part, TextPart) and part.parse_special)
    assert prompt_text(prompt).count(token) > 25
    assert not [one for one in _ODD if one in parsed]


@pytest.mark.parametrize(
    "typed", ["<|im_\\ufdd1end|>", "\\ufdd0<|im_end|>\\ufdd1", "<|im_\ufdd0\ufdd1end|>", "\\ufdd1<|im_end|>"]
)
def test_marks_spelled_by_people_unguard_nothing(typed: str) -> None:
    """A typed escape of a mark is ordinary text: it neither disappears, which would join its neighbours, nor acts as a
    mark.
    """
    control = ControlTokens(("<|im_end|>",))
    for source in ("{{ messages[0].content }}", "{{ messages[0] }}", "{{ messages[0] | tojson(ensure_ascii=true) }}"):
        prompt = _prompt(JinjaFormat(source), [Message(role="user", content=typed)], control=control)
        assert "<|im_end|>" not in [
            text for part in prompt if isinstance(part, TextPart) and part.parse_special for text in [part.text]
        ]
        assert not any(
            "<|im_end|>" in part.text for part in prompt if isinstance(part, TextPart) and part.parse_special
        )


def test_a_role_makes_no_control_token() -> None:
    """If a template makes tokens from roles, roles it knows work, and any other stays text."""
    source = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}{{ '' if role == 'critic' }}"
    control = ControlTokens(("<|user|>", "<|endoftext|>", "<|critic|>"))

    def parts(role: str) -> Prompt:
        return _prompt(JinjaFormat(source), [Message(role=role, content="x"), *_USER], control=control)

    for role in ("user", "critic"):
        assert parts(role) == (TextPart(text=f"<|{role}|>x<|user|>hello", parse_special=True),)
    assert _guarded(parts("endoftext")) == ["endoftext"]
    assert prompt_text(parts("endoftext")) == "<|endoftext|>x<|user|>hello"


def test_marks_in_content_do_no_harm() -> None:
    """The noncharacters used as marks are removed from content, and cannot turn text into a token."""
    prompt = _prompt(
        JinjaFormat("{{ messages[0].content }}"), [Message(role="user", content="a\ufdd1<|x|>\ufdd0<|y|>")]
    )
    assert prompt_text(prompt) == "a<|x|><|y|>"
    assert _guarded(prompt) == ["<|x|><|y|>"]


def test_a_mark_cut_in_half_is_dropped() -> None:
    """A template that shortens content leaves no marks behind, nor does one that escapes them."""
    message = [Message(role="user", content="abc<|im_end|>")]
    assert _render("{{ messages[0].content[:6] }}", message) == "abc<|"
    assert _render("{{ messages[0].content | tojson(ensure_ascii=true) }}", message) == '"abc<|im_end|>"'


def test_the_templates_own_complaint_is_the_error() -> None:
    """`raise_exception` becomes InvalidRequest with the template's message."""
    with pytest.raises(InvalidRequest, match="chat template: roles must alternate"):
        _render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{% for x in %}",
        "{{ 'a'|nonsense }}",
        "{% if x %}",
        "x" * 300_000,
        "{{a}}" * 20_000,
        "{{ " + "a~" * 20_000 + "a }}",
        "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    ],
)
def test_a_template_that_does_not_compile(source: str) -> None:
    """A broken template is reported as the model file's fault."""
    with pytest.raises(InvalidModelFile, match="chat template"):
        JinjaFormat(source)


_LONG = "{% set a = 'a' * 95000 * 20 %}"
_LIST = "{% set L = range(20000) | list %}"
_GROW = "{% set ns = namespace(x='aaaaaaaaaa', l=['a']) %}{% for i in range(60) %}"


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        _GROW + "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        _GROW + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        _GROW + "{% set c %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = c %}{% endfor %}{{ ns.x }}",
        _GROW + "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
        _GROW + "{% set ns.l = {'a': ns.l, 'b': ns.l} %}{% endfor %}{{ ns.l | tojson }}",
        _GROW + "{% set ns.l = dict(a=ns.l, b=ns.l) %}{% endfor %}{{ ns.l | tojson }}",
        _GROW + "{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l }}",
        "{{ 'a' * 1000000000 }}",
        "{{ [1] * 1000000000 }}",
        "{{ 10 ** 100000 }}",
        "{{ 'a'.rjust(1000000000) }}",
        "{{ '{:>1000000000}'.format('a') }}",
        "{{ '{:>{w}}'.format('a', w='1000000000') }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{% set a = 'a' * 100000 %}{{ a.replace('a', a) }}",
        "{% set a = 'a' * 100000 %}{{ a | replace('a', a) }}",
        "{% set a = 'a' * 100000 %}{{ range(90000) | join(a) }}",
        "{% set a = 'a' * 100000 %}{{ a.join(a) }}",
        "{% set a = 'a' * 100000 %}{% for i in range(90000) %}{{ a }}{% endfor %}",
        "{{ strftime_now('%100000000Y') }}",
        "{{ 1.5 | round(100000000, 'floor') }}",
        "{{ '{:\U0001f600>٩٩٩٩٩٩٩٩٩}'.format('a') }}",
        "{{ '{a:\U0001f600>999999999}'.format_map({'a': 'a'}) }}",
        "{{ '%٩٩٩٩٩٩٩٩٩d' % 1 }}",
        "{{ ('%.9999f' * 1000) % ((1.0,) * 1000) }}",
        _LONG + "{{ ('{0}' * 1000).format(a) }}",
        _LONG + "{{ ('{a}' * 1000).format(a=a) }}",
        _LONG + "{{ ('%(a)s' * 1000) % {'a': a} }}",
        _LONG + "{{ ('%(a)s' * 1000) | format(a=a) }}",
        _LIST + "{{ ([''] * 100000) | map('default', L, true) | join }}",
        _LIST + "{{ ([''] * 100000) | map('default', L, true) | sum(start=[]) }}",
        _LIST + _LONG + "{{ L | tojson(separators=(a, a)) }}",
        _LIST + _LONG + "{{ L | join(a) }}",
        _LONG + "{{ a.split('a') | length }}",
        _LONG + "{{ (a | replace('a', '\n')).splitlines() | length }}",
        _LONG + "{{ a | replace('a', '\n') | indent(4, true, true) }}",
        _LONG + "{{ a | title }}",
        _LONG + "{{ a.replace('', a) }}",
        _LONG + "{{ a | replace('a', '<') | e | e }}",
        _LONG + "{{ a.strip('b' * 50000 + 'a') }}",
        _LONG + "{{ a | trim('b' * 50000 + 'a') }}",
        _LONG + "{{ a.rfind('b' + 'a' * 50000) }}",
        _LONG + "{% for i in range(99) %}{{ a }}{% endfor %}",
        _LONG + "{% set c %}{% for i in range(99) %}{{ a }}{% endfor %}{% endset %}",
        _LONG + "".join(f"{{% set a{n} = a[{n}:] %}}" for n in range(400)),
        _GROW + "{% set ns.l = {'a': ns.l, 'b': ns.l}.items() %}{% endfor %}{{ ns.l }}",
        _GROW + "{% set ns.l = {'a': ns.l, 'b': ns.l}.values() %}{% endfor %}{{ ns.l }}",
        _GROW + "{% set ns.l = cycler(ns.l, ns.l).items %}{% endfor %}{{ ns.l }}",
        _GROW + "{% set ns.x = ns.x + ns.x[:-1] %}{% endfor %}{{ ns.x }}",
        "{{ strftime_now('%99999Y' * 100) }}",
        "{{ ('f' * 90000) | int(base=16) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{% set x = messages.append('x') %}",
    ],
)
def test_a_hostile_template_ends_soon_with_an_error(source: str) -> None:
    """No loop, growth or escape hangs the server or fills its memory: it is InvalidRequest within seconds."""
    with pytest.raises(InvalidRequest, match="chat template: "):
        _render(source)


def test_long_conversations_stay_within_the_limits() -> None:
    """Hundreds of long messages, and a template that builds its text by concatenation, are accepted."""
    source = (
        "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m.role + m.content %}{% endfor %}"
    )
    messages = [Message(role="user", content="x" * 1000)] * 500
    assert len(_render(source + "{{ ns.t }}", messages)) == 500 * 1004


@pytest.mark.parametrize(
    "source",
    [
        "{{ '{:\U0001f600>٩٩٩٩٩٩٩٩٩}'.format('a') }}",
        "{{ '{a:\U0001f600>999999999}'.format_map({'a': 'a'}) }}",
        "{% set L = range(20000) | list %}{{ ([''] * 100000) | map('default', L, true) | join }}",
        "{% set a = '\U0001f600' * 95000 * 20 %}" + "".join(f"{{% set a{n} = a[{n}:] %}}" for n in range(400)),
        "{% set a = 'ΐ' * 95000 * 20 %}{% for n in range(9) %}{{ a | upper | length }}{% endfor %}",
    ],
)
def test_a_hostile_template_stays_small(source: str) -> None:
    """The size of what it builds is checked first, so that it never takes as much as 150 MB."""
    template = JinjaFormat(source)
    tracemalloc.start()
    try:
        with suppress(InvalidRequest):
            _prompt(template, _USER)
        assert tracemalloc.get_traced_memory()[1] < 150 << 20
    finally:
        tracemalloc.stop()


def test_texts_that_are_gone_do_not_count() -> None:
    """Only what a template holds at one time is limited, not the total of what it builds."""
    source = (
        "{% set ns = namespace(x='') %}{% for i in range(60) %}{% set ns.x = m + i | string %}{% endfor %}{{ ns.x }}"
    )
    source = source.replace("m +", "messages[0].content +")
    assert len(_render(source, [Message(role="user", content="x" * 1_000_000)])) == 1_000_002


def test_a_rendering_that_nobody_waits_for_ends() -> None:
    """A slow template stops soon after its caller has given up, and other templates never wait for it."""
    slow = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"

    async def scenario() -> None:
        threads = RenderingThreads()
        busy = threads.format(JinjaFormat(slow))
        other = threads.format(JinjaFormat("{{ messages[0].content }}"))
        waiting = [asyncio.create_task(busy.render(_HELLO, LOOKALIKES)) for _ in range(12)]
        await asyncio.sleep(0.05)
        assert prompt_text((await other.render(_HELLO, LOOKALIKES)).prompt) == "hello"
        assert not any(task.done() for task in waiting)
        began_s = time.thread_time()
        for task in waiting:
            task.cancel()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)
        assert time.thread_time() - began_s < 1

    asyncio.run(scenario())


def test_short_chats_are_rendered_in_the_event_loop() -> None:
    """A short chat takes no thread; a long one, one with tools, and one of a format that cannot be interrupted do."""
    threads: list[int] = []

    class Noting(JinjaFormat):
        def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
            threads.append(threading.get_ident())
            return super().render(request, control)

    class Uninterruptible(Noting):
        interruptible = False

    async def scenario() -> None:
        formats = RenderingThreads()
        short = formats.format(Noting("{{ messages[0].content }}"))
        other = formats.format(Uninterruptible("{{ messages[0].content }}"))
        await short.render(_HELLO, LOOKALIKES)
        await short.render(ChatRequest(messages=(Message(role="user", content="x" * 10_000),)), LOOKALIKES)
        await other.render(_HELLO, LOOKALIKES)
        for message in (
            Message(role="x" * 10_000),
            Message(role="tool", tool_name="x" * 10_000),
            Message(role="tool", tool_call_id="x" * 10_000),
        ):
            await short.render(ChatRequest(messages=(message,)), LOOKALIKES)

    asyncio.run(scenario())
    assert [one == threading.get_ident() for one in threads] == [True, False, False, False, False, False]


def test_a_slow_template_leaves_the_event_loop() -> None:
    """It is stopped there after a moment, is rendered in a thread instead, and is not tried there again."""
    slow = "{% for a in range(999) %}{% for b in range(99) %}{% endfor %}{% endfor %}{{ messages[0].content }}"
    threads: list[int] = []

    class Noting(JinjaFormat):
        def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
            threads.append(threading.get_ident())
            return super().render(request, control)

    async def scenario() -> None:
        opened = RenderingThreads().format(Noting(slow))
        for _ in range(2):
            assert prompt_text((await opened.render(_HELLO, LOOKALIKES)).prompt) == "hello"

    asyncio.run(scenario())
    assert [one == threading.get_ident() for one in threads] == [True, False, False]


def test_a_complaint_in_the_event_loop_is_the_templates() -> None:
    """A template that refuses a chat is not asked again in a thread."""

    async def scenario() -> None:
        opened = RenderingThreads().format(JinjaFormat("{{ raise_exception('no') }}"))
        with pytest.raises(InvalidRequest, match="no"):
            await opened.render(_HELLO, LOOKALIKES)

    asyncio.run(scenario())


def test_a_template_has_one_rendering_at_a_time() -> None:
    """A template uses only one thread, no matter how many chats wait for it."""
    running = [0, 0]

    class Counting:
        def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
            running[0] += 1
            running[1] = max(running[1], running[0])
            time.sleep(0.005)
            running[0] -= 1
            return RenderedChat(prompt=())

    async def scenario() -> None:
        template = RenderingThreads().format(Counting())
        await asyncio.gather(*(template.render(_HELLO, LOOKALIKES) for _ in range(10)))

    asyncio.run(scenario())
    assert running == [0, 1]


_LONG_LIST = "{% set a = ('xy,' * 30000).split(',') %}"
_LONG_TEXT = "{% set h = ('ab' * 100000) * 5 %}"


@pytest.mark.parametrize(
    "source",
    [
        _LONG_LIST + "{{ 'q' in a }}" * 500,
        _LONG_LIST + "{{ 'q' is in a }}" * 500,
        _LONG_LIST + "{% set q = a[1:] %}" * 20,
        "{% set a = [1] * 60000 %}{% set b = [1.0] * 60000 %}" + "{{ a == b }}" * 100,
        _LONG_TEXT + "{{ h is upper }}" * 500,
        _LONG_TEXT + "{{ h.isprintable() }}" * 100,
        _LONG_TEXT + "{{ 'bb' in h }}" * 1000,
        "{{ (range(60000) | list + range(60000) | list) | length }}",
    ],
)
def test_what_a_template_compares_is_counted_and_leaves_the_event_loop(source: str) -> None:
    async def scenario() -> None:
        threads = RenderingThreads()
        rendering = threads.format(JinjaFormat(source))
        gaps: list[float] = []

        async def tick() -> None:
            while True:
                before = time.thread_time()
                await asyncio.sleep(0)
                gaps.append(time.thread_time() - before)

        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0)
        with suppress(InvalidRequest):
            await rendering.render(_HELLO, LOOKALIKES)
        await asyncio.sleep(0)
        ticking.cancel()
        threads.close()
        assert max(gaps) < 0.1

    asyncio.run(scenario())


def test_a_template_that_was_slow_without_being_asked_leaves_the_event_loop() -> None:
    async def scenario() -> None:
        class Slow:
            interruptible = True

            def __init__(self) -> None:
                self.threads: list[int] = []

            def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
                self.threads.append(threading.get_ident())
                until_s = time.thread_time() + 0.005
                while time.thread_time() < until_s:
                    pass
                return RenderedChat(prompt=(TextPart(text="x"),))

        threads = RenderingThreads()
        slow = Slow()
        rendering = threads.format(slow)
        for _ in range(2):
            assert prompt_text((await rendering.render(_HELLO, LOOKALIKES)).prompt) == "x"
        threads.close()
        assert [ident == threading.get_ident() for ident in slow.threads] == [True, False]

    asyncio.run(scenario())


@pytest.mark.parametrize("field", ["role", "tool_name", "tool_call_id", "thinking", "content", "suffix"])
def test_long_texts_in_any_field_are_rendered_in_a_thread(field: str) -> None:
    async def scenario() -> None:
        class Noted:
            interruptible = True

            def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
                return RenderedChat(prompt=(TextPart(text=str(threading.get_ident())),))

        threads = RenderingThreads()
        rendering = threads.format(Noted())
        request = ChatRequest(messages=(Message(role="user"),))
        holder = request if field == "suffix" else request.messages[0]
        changed = msgspec.structs.replace(holder, **{field: "x" * 10_000})
        request = changed if isinstance(changed, ChatRequest) else ChatRequest(messages=(changed,))
        prompt = (await rendering.render(request, LOOKALIKES)).prompt
        threads.close()
        assert prompt_text(prompt) != str(threading.get_ident())

    asyncio.run(scenario())


def test_no_filter_looks_up_an_endless_path() -> None:
    path = ".".join(["0"] * 200)
    for lookup in (
        f"sort(attribute='{path}')",
        f"sum('{path}')",
        f"sort(false, false, '{path}')",
        f"map(attribute='{path}')",
    ):
        with pytest.raises(InvalidRequest, match="an attribute of more than 8 names"):
            _render("{{ ['x'] | " + lookup + " | list }}")


def test_a_large_vocabulary_of_control_tokens_is_compiled_in_a_thread() -> None:
    async def scenario() -> None:
        threads = RenderingThreads()
        rendering = threads.format(JinjaFormat(_TEXT))
        gap_s = 0.0

        async def tick() -> None:
            nonlocal gap_s
            while True:
                before = time.thread_time()
                await asyncio.sleep(0.001)
                gap_s = max(gap_s, time.thread_time() - before)

        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0)
        control = await rendering.control(tuple(f"<|t{number}|>" for number in range(5000)))
        ticking.cancel()
        threads.close()
        assert [control.is_one("<|t17|>"), control.is_one("<|t5000|>")] == [True, False]
        assert gap_s < 0.1

    asyncio.run(scenario())


# ── tool calls ────────────────────────────────────────────────────────────────────────────────────────────────────────

_CALLS = "{% for m in messages %}{% for c in m.tool_calls or [] %}"
_CALLED = [
    *_USER,
    Message(role="assistant", tool_calls=(ToolCall(name="f", arguments={"a": "é<|x|>"}),)),
    Message(role="tool", content="3", tool_name="f"),
]


@pytest.mark.parametrize(
    "written",
    [
        "{{ c.function.arguments | tojson }}",
        "{{ '[' ~ c.function.arguments ~ ']' }}",
        "{{ '[' + c.function.arguments + ']' }}",
        "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}{{ c.function.arguments | tojson }}"
        "{% endif %}",
    ],
)
def test_arguments_are_what_the_template_expects(written: str) -> None:
    """Objects for templates that write them as JSON or go through them, and JSON text for those that print it."""
    template = JinjaFormat(_CALLS + written + "{% endfor %}{% endfor %}")
    assert prompt_text(_prompt(template, _CALLED)).strip("[]") == '{"a": "é<|x|>"}'
    assert _guarded(_prompt(template, _CALLED)) == ["<|x|>"]


def test_arguments_one_by_one() -> None:
    """A template that goes through them gets an object."""
    template = JinjaFormat(
        _CALLS + "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}{% endfor %}{% endfor %}"
    )
    assert prompt_text(_prompt(template, _CALLED)) == "a=é<|x|>"


def test_ids_link_calls_and_results() -> None:
    """Clients of Ollama send none; a template that wants nine characters gets nine, the same for call and result."""
    shown = "{{ c.id }}{% endfor %}{% if m.role == 'tool' %}={{ m.tool_call_id }}{{ m.name }}{% endif %}{% endfor %}"
    assert prompt_text(_prompt(JinjaFormat(_CALLS + shown), _CALLED)) == "call_1_0=call_1_0f"
    picky = "{% if c.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
    called, _, result = prompt_text(_prompt(JinjaFormat(_CALLS + picky + shown), _CALLED)).partition("=")
    assert (len(called), result) == (9, f"{called}f")
    own = [*_USER, Message(role="assistant", tool_calls=(ToolCall(name="f", id="abcDEF123"),))]
    assert prompt_text(_prompt(JinjaFormat(_CALLS + picky + shown), own)) == "abcDEF123"


def test_ids_instead_of_names() -> None:
    """A template that writes no names gets ids with the names in them, as Kimi's models write them themselves."""
    kimi = JinjaFormat(
        "{% for m in messages %}{% for c in m.tool_calls or [] %}<{{ c.id }}|{{ c.function.arguments | tojson }}>"
        "{% endfor %}{% if m.role == 'tool' %}({{ m.tool_call_id }})={{ m.content }}{% endif %}{% endfor %}"
    )
    calls = (ToolCall(name="f"), ToolCall(name="g.h", id="functions.g.h:7"))
    called = [
        *_USER,
        Message(role="assistant", tool_calls=calls),
        Message(role="tool", content="2", tool_name="g.h"),
        Message(role="tool", content="1"),
        Message(role="assistant", tool_calls=(ToolCall(name="f", id="call_x"),)),
        Message(role="tool", content="3", tool_call_id="call_x"),
        Message(role="tool", content="4", tool_call_id="lost"),
    ]
    assert prompt_text(_prompt(kimi, called)) == (
        "<functions.f:0|{}><functions.g.h:7|{}>(functions.g.h:7)=2(functions.f:0)=1"
        "<functions.f:2|{}>(functions.f:2)=3(lost)=4"
    )

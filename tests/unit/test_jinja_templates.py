"""Jinja templates: what they see, which one is taken, and what a hostile one can not do."""

from __future__ import annotations

import time

import pytest

from corral.adapters.templates.jinja import JinjaTemplate, JinjaTemplates
from corral.core.errors import InvalidModelFile, InvalidRequest
from corral.core.messages import Message, Tool, ToolCall
from corral.core.models import Digest, ModelMetadata, ModelRecord, TemplateText
from corral.core.names import parse_name
from corral.core.prompting import prompt_text
from corral.core.requests import Prompt, TextPart

_USER = [Message(role="user", content="hello")]


def _render(source: str, messages: list[Message] | None = None, **options: str) -> str:
    return prompt_text(JinjaTemplate(source, **options).render(_USER if messages is None else messages))


def _guarded(prompt: Prompt) -> list[str]:
    return [part.text for part in prompt if isinstance(part, TextPart) and not part.parse_special]


def _record(template: TemplateText | None = None) -> ModelRecord:
    return ModelRecord(
        name=parse_name("m"), digest=Digest("sha256:" + "0" * 64), size_bytes=0, modified_at=0, template=template
    )


def _metadata(chat_template: str | None) -> ModelMetadata:
    return ModelMetadata(
        format="gguf",
        architecture="llama",
        file_type="Q4_1",
        parameter_count=1,
        tensor_bytes=1,
        chat_template=chat_template,
        bos_text="<s>",
        eos_text="</s>",
    )


def test_the_weights_template_is_taken() -> None:
    """Without one in the manifest, the GGUF's own template is used, with its special tokens."""
    template = JinjaTemplates()(_record(), _metadata("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"))
    assert template is not None
    assert prompt_text(template.render(_USER)) == "<s>hello</s>"


def test_the_manifests_jinja_template_wins() -> None:
    """A Jinja template in the manifest goes before the weights'; a Go template is not for this factory."""
    factory = JinjaTemplates()
    ours = factory(_record(TemplateText(kind="jinja", text="A")), _metadata("B"))
    go = factory(_record(TemplateText(kind="go", text="A")), _metadata("B"))
    assert ours is not None
    assert go is not None
    assert (ours.source, go.source) == ("A", "B")
    assert factory(_record(), _metadata(None)) is None
    assert factory(_record(), None) is None


def test_a_template_beside_the_weights_brings_its_tokens() -> None:
    """Where the manifest says which tokens begin and end a text, they go before the weights' word."""
    text = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    template = JinjaTemplates()(_record(TemplateText(kind="jinja", text=text, bos_text="[B]")), _metadata(None))
    assert template is not None
    assert prompt_text(template.render(_USER)) == "[B]hello</s>"


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
    """Models read `<` and `é`, not escapes; the key order is kept."""
    arguments = {"b": "<é>", "a": [1]}
    messages = [*_USER, Message(role="assistant", tool_calls=(ToolCall(name="f", arguments=arguments),)), *_USER]
    assert _render("{{ messages[1].tool_calls[0].function.arguments | tojson }}", messages) == '{"b": "<é>", "a": [1]}'


def test_tools_and_thinking_reach_the_template() -> None:
    """Tools are there as OpenAI-style functions, None without any; thinking under both of its names."""
    template = JinjaTemplate("{% if tools %}{{ tools[0].function.name }}{% endif %}{{ messages[0].reasoning_content }}")
    message = Message(role="user", content="x", thinking="hm")
    assert prompt_text(template.render([message], tools=[Tool(name="look")])) == "lookhm"
    assert prompt_text(template.render([message])) == "hm"


def test_the_time_can_be_asked() -> None:
    """`strftime_now` formats the local time."""
    assert _render("{{ strftime_now('%Y') }}") == time.strftime("%Y")


def test_a_template_without_a_system_role_gets_it_in_the_first_user_message() -> None:
    """Where the template refuses or drops system messages, they go in front of what the user says first."""
    messages = [Message(role="system", content="be brief"), *_USER]
    refuses = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}"
    drops = "{% for m in messages if m.role == 'user' %}{{ m.content }}"
    assert _render(refuses + "{% endfor %}", messages) == "be brief\n\nhello"
    assert _render(drops + "{% endfor %}", messages) == "be brief\n\nhello"


def test_a_template_finds_what_it_looks_for_in_answers() -> None:
    """Reasoning that the template cuts out of earlier answers is cut as cleanly as without any marks."""
    source = """{% for m in messages %}{{ m.role }}:
{{- m.content.split('</think>')[-1].lstrip('\\n') if m.role == 'assistant' else m.content }};{% endfor %}"""
    said = "<think>hm</think>\n\nfour <|x|>"
    prompt = JinjaTemplate(source).render(
        [Message(role="user", content=said), Message(role="assistant", content=said), *_USER]
    )
    assert prompt_text(prompt) == f"user:{said};assistant:four <|x|>;user:hello;"
    assert _guarded(prompt) == ["<think>", "</think>", "<|x|>", "<|x|>"]


def test_marks_in_content_do_no_harm() -> None:
    """The noncharacters used as marks vanish from content, and cannot unguard a token."""
    prompt = JinjaTemplate("{{ messages[0].content }}").render(
        [Message(role="user", content="a\ufdd1<|x|>\ufdd0<|y|>")]
    )
    assert prompt_text(prompt) == "a<|x|><|y|>"
    assert _guarded(prompt) == ["<|x|><|y|>"]


def test_a_mark_cut_in_half_is_dropped() -> None:
    """A template that shortens content leaves no marks behind, nor does one that escapes them."""
    message = [Message(role="user", content="abc<|im_end|>")]
    assert _render("{{ messages[0].content[:6] }}", message) == "abc<|"
    assert _render("{{ messages[0].content | tojson(ensure_ascii=true) }}", message) == '"abc<|im_end|>"'


def test_the_templates_own_complaint_is_the_error() -> None:
    """`raise_exception` becomes InvalidRequest with the template's words."""
    with pytest.raises(InvalidRequest, match="chat template: roles must alternate"):
        _render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize("source", ["{% if %}", "{% for x in %}", "{{ 'a'|nonsense }}", "{% if x %}", "x" * 300_000])
def test_a_template_that_does_not_compile_names_the_model(source: str) -> None:
    """A broken template is the model file's fault, and the message says which model's."""
    with pytest.raises(InvalidModelFile, match="tiny"):
        JinjaTemplate(source, name="tiny")


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
    """Hundreds of long messages, and a template that builds its text by adding, are ordinary."""
    source = (
        "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m.role + m.content %}{% endfor %}"
    )
    messages = [Message(role="user", content="x" * 1000)] * 500
    assert len(_render(source + "{{ ns.t }}", messages)) == 500 * 1004

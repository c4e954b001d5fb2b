"""Our chat formats against the contract of their port, and the contract against formats that break it."""

from __future__ import annotations

import itertools

import pytest

from corral.adapters.templates.go.chat_format import GoFormat
from corral.adapters.templates.jinja import JinjaFormat
from corral.core.generation.plain_format import PlainFormat
from corral.core.models.effective_template import PLAIN_TEMPLATE
from corral.core.requests.messages import Message
from corral.core.requests.requests import ChatRequest
from corral.plugins.testing.broken.formats import FORMATS, SoundFormat
from corral.plugins.testing.chat_format import ChatFormatContract, MakeFormat
from tests.contracts.broken_parts import failures, promises

_CHATML = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] | trim }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# Refuses a system message and roles that do not alternate, as several families do.
_STRICT = """{{ bos_token }}{% for message in messages %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- if message.role == 'user' %}[INST] {{ message.content }} [/INST]
{%- else %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}"""

# Looks into answers for their reasoning, as reasoning models do.
_REASONING = """{% for message in messages %}
{%- if message.role == 'assistant' and '</think>' in message.content %}
{%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
{%- else %}{% set content = message.content %}{% endif %}
{{- '<|im_start|>' ~ message.role ~ '\\n' ~ content ~ '<|im_end|>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


_GO = """{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""

_GO_IN_TURNS = """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}<|im_end|>
"""


class TestGo(ChatFormatContract):
    @pytest.fixture
    def make_format(self) -> MakeFormat:
        return lambda: GoFormat(_GO)


class TestGoInTurns(ChatFormatContract):
    @pytest.fixture
    def make_format(self) -> MakeFormat:
        return lambda: GoFormat(_GO_IN_TURNS)


class TestChatml(ChatFormatContract):
    @pytest.fixture
    def make_format(self) -> MakeFormat:
        return lambda: JinjaFormat(_CHATML)


class TestStrictRoles(ChatFormatContract):
    control_token = "[INST]"

    @pytest.fixture
    def make_format(self) -> MakeFormat:
        return lambda: JinjaFormat(_STRICT, bos_text="<s>", eos_text="</s>")


class TestReasoning(ChatFormatContract):
    @pytest.fixture
    def make_format(self) -> MakeFormat:
        return lambda: JinjaFormat(_REASONING)


_NO_SYSTEM = "system: the chat template has no place for it"


class TestPlain(ChatFormatContract):
    @pytest.fixture
    def make_format(self) -> MakeFormat:
        return PlainFormat

    def test_every_turn_is_in_the_prompt_in_order(self, make_format: MakeFormat) -> None:
        """What Ollama's template for such models prints, whatever the roles; what it leaves out is said."""
        ollamas = GoFormat(PLAIN_TEMPLATE)
        for roles in itertools.product(("system", "user", "assistant", "tool"), repeat=4):
            messages = tuple(Message(role=role, content=f"{role} {place}, ") for place, role in enumerate(roles))
            rendered, expected = (one.render(ChatRequest(messages=messages)) for one in (make_format(), ollamas))
            assert (rendered.prompt, rendered.ignored) == (expected.prompt, expected.ignored)
            assert (_NO_SYSTEM in rendered.ignored, len(rendered.ignored)) == (
                "system" in roles,
                ("system" in roles) + ("tool" in roles),
            )

    @pytest.mark.parametrize("role", ["user", "assistant"])
    def test_no_role_may_write_control_tokens(self, make_format: MakeFormat, role: str) -> None:
        """The rule holds for the roles that reach the prompt."""
        super().test_no_role_may_write_control_tokens(make_format, role)


@pytest.mark.parametrize(("template", "said"), [("{{ .System }}", ()), ("", (_NO_SYSTEM,))])
def test_a_go_template_without_a_place_for_the_system_message(template: str, said: tuple[str, ...]) -> None:
    """It is left out, as in Ollama, and the answer says so."""
    messages = (Message(role="system", content="s"), Message(role="user", content="u"))
    assert GoFormat(template + "{{ .Prompt }}").render(ChatRequest(messages=messages)).ignored == said


@pytest.mark.parametrize("made", [SoundFormat, *FORMATS])
def test_a_broken_format_fails_its_own_test_alone(made: type[SoundFormat]) -> None:
    """A sound format passes them all."""
    assert failures(ChatFormatContract, made) == ({made.breaks} if made.breaks else set())


def test_every_promise_has_a_format_that_breaks_it() -> None:
    """Every test of the contract is failed by some broken format."""
    assert {made.breaks for made in FORMATS} == promises(ChatFormatContract)

"""Answers that end inside of a call that follows another one, or inside of the mark that ends a call."""

from __future__ import annotations

import pytest

from tests.unit.test_call_variants import read

BEGINNINGS = {
    "hermes": '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    "go_tag": '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    "qwen3_coder": "<tool_call>\n<function=now>\n</function>\n</tool_call>",
    "glm": "<tool_call>now\n</tool_call>",
    "mistral": "[TOOL_CALLS]now[ARGS]{}",
    "deepseek": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "gemma4": "<|tool_call>call:now{}<tool_call|>",
    "granite": '<|tool_call|>[{"name": "now", "arguments": {}}]',
    "llama3_json": '{"name": "now", "parameters": {}}',
}


@pytest.mark.parametrize("name", sorted(BEGINNINGS))
def test_nothing_of_a_further_call_is_text(name: str) -> None:
    """Wherever an answer of two calls ends after the first, that is all there is: no mark, and no half of a call."""
    one = BEGINNINGS[name]
    between = "; " if name == "llama3_json" else "\n"
    text = f"{one}{between}{one}"
    counts = []
    for end in range(1, len(text) + 1):
        visible, calls, warnings = read(name, [text[:end]])
        counts.append(len(calls))
        if calls:
            assert visible == "", (end, text[:end])
            assert all(warning == "a tool call was left out: the answer ended inside it" for warning in warnings)
    assert counts == sorted(counts)
    assert counts[-1] == 2


@pytest.mark.parametrize("name", ["hermes", "go_tag"])
def test_what_was_left_out_is_told(name: str) -> None:
    """A call that was begun has a warning; the end of a whole call has none."""
    first = BEGINNINGS[name]
    told = "a tool call was left out: the answer ended inside it"
    visible, calls, warnings = read(name, [f"{first}\n", '<tool_call>\n{"name": "no'])
    assert (visible, len(calls), warnings) == ("", 1, [told])
    visible, calls, warnings = read(name, [first[:-6]])
    assert (visible, len(calls), warnings) == ("", 1, [])


def test_other_text_after_a_call_stays() -> None:
    """Only what was begun of a call is left out."""
    visible, calls, _ = read("hermes", [BEGINNINGS["hermes"], " Wait. ", '<tool_call>{"name": "no'])
    assert (visible.strip(), len(calls)) == ("Wait.", 1)

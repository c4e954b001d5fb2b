"""Request bodies are read as Go's encoding/json reads them, with the same error messages."""

from __future__ import annotations

import pytest

from corral.api.http.errors import ApiError
from corral.api.http.go_json import decode_body
from corral.api.http.ollama.bodies import ChatBody, GenerateBody
from corral.core.go.json_syntax import end_of_value


def complaint(body: bytes, kind: type[GenerateBody] | type[ChatBody] = GenerateBody) -> str:
    with pytest.raises(ApiError) as caught:
        decode_body(body, kind)
    assert caught.value.status == 400
    return caught.value.text


@pytest.mark.parametrize("body", [b"", b"  \n"])
def test_an_empty_body_is_missing(body: bytes) -> None:
    """An empty body, or one of spaces only, counts as missing."""
    assert complaint(body) == "missing request body"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"x", "invalid character 'x' looking for beginning of value"),
        (b'{"model"', "unexpected EOF"),
        (b'{"model": "a', "unexpected EOF"),
        (b"{model: 1}", "invalid character 'm' looking for beginning of object key string"),
        (b'{"model" 1}', "invalid character '1' after object key"),
        (b'{"model": "a" "prompt": "b"}', "invalid character '\"' after object key:value pair"),
        (b'{"context": [1 2]}', "invalid character '2' after array element"),
        (b'{"stream": falsy}', "invalid character 'y' in literal false (expecting 'e')"),
        (b'{"model": "a\nb"}', r"invalid character '\n' in string literal"),
        (rb'{"model": "\q"}', "invalid character 'q' in string escape code"),
        (rb'{"model": "\u12g4"}', r"invalid character 'g' in \u hexadecimal character escape"),
        (b'{"top_logprobs": -x}', "invalid character 'x' in numeric literal"),
        (b'{"top_logprobs": 1.x}', "invalid character 'x' after decimal point in numeric literal"),
        (b'{"top_logprobs": 1ex}', "invalid character 'x' in exponent of numeric literal"),
        (b'{"model": "a",}', "invalid character '}' looking for beginning of object key string"),
        (b"[" * 20_000, "exceeded max depth"),
        ('\ufeff{"model": "a"}'.encode(), "invalid character 'ï' looking for beginning of value"),
    ],
)
def test_malformed_json_is_told_in_go_s_words(body: bytes, text: str) -> None:
    """Each kind of broken JSON gets the error text of Go's decoder."""
    assert complaint(body) == text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            b'{"stream": "yes"}',
            "json: cannot unmarshal string into Go struct field GenerateRequest.stream of type bool",
        ),
        (b'{"model": 5}', "json: cannot unmarshal number into Go struct field GenerateRequest.model of type string"),
        (b'{"prompt": []}', "json: cannot unmarshal array into Go struct field GenerateRequest.prompt of type string"),
        (
            b'{"options": "x"}',
            "json: cannot unmarshal string into Go struct field GenerateRequest.options"
            " of type map[string]interface {}",
        ),
        (
            b'{"top_logprobs": 1.5}',
            "json: cannot unmarshal number 1.5 into Go struct field GenerateRequest.top_logprobs of type int",
        ),
        (
            b'{"context": [1, "x"]}',
            "json: cannot unmarshal string into Go struct field GenerateRequest.context of type int",
        ),
        (b'{"context": 5}', "json: cannot unmarshal number into Go struct field GenerateRequest.context of type []int"),
        (b"[]", "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
        (b'"text"', "json: cannot unmarshal string into Go value of type api.GenerateRequest"),
        (b"true", "json: cannot unmarshal bool into Go value of type api.GenerateRequest"),
    ],
)
def test_mistyped_fields_are_told_in_go_s_words(body: bytes, text: str) -> None:
    """The error for a value of the wrong type names its field and Go's type."""
    assert complaint(body) == text


def test_a_mistyped_field_of_a_message_is_told_with_its_path() -> None:
    """Content in parts, as other APIs have it, is refused with the text that clients know."""
    body = b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}'
    assert (
        complaint(body, ChatBody)
        == "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string"
    )


def test_keys_match_in_any_case_and_unknown_ones_are_ignored() -> None:
    """The case of keys does not matter in requests and messages; it does in options, which are a map."""
    body = decode_body(
        b'{"MODEL": "m", "Messages": [{"Role": "user", "CONTENT": "hi", "x": 1}], "y": 2, "Options": {"Seed": 1}}',
        ChatBody,
    )
    assert body.model == "m"
    assert (body.messages[0].role, body.messages[0].content) == ("user", "hi")
    assert body.options == {"Seed": 1}


def test_null_leaves_the_default() -> None:
    """A null field, a null message field and a null body count as missing."""
    body = decode_body(b'{"stream": null, "options": null, "messages": [{"role": "user", "content": null}]}', ChatBody)
    assert body.stream
    assert body.options == {}
    assert body.messages[0].content == ""
    assert decode_body(b"null", ChatBody) == ChatBody()


def test_what_follows_the_first_value_is_ignored() -> None:
    """Bytes after the first JSON value are never looked at."""
    assert decode_body(b'{"model": "m"} {"model": 5', GenerateBody).model == "m"


def test_broken_text_becomes_replacement_characters() -> None:
    """Bytes that are not UTF-8 and unpaired surrogates become U+FFFD, as in Go."""
    assert decode_body(b'{"prompt": "a\xffb"}', GenerateBody).prompt == "a�b"
    assert decode_body(rb'{"prompt": "a\ud800b"}', GenerateBody).prompt == "a�b"
    assert decode_body(rb'{"prompt": "\ud83d\ude00"}', GenerateBody).prompt == "😀"


@pytest.mark.parametrize(("text", "end"), [('{"a": [1, {"b": []}]} x', 21), (" [] ", 3), ("1 2", 1), ('"a\\"b"c', 6)])
def test_the_end_of_the_first_value_is_found(text: str, end: int) -> None:
    """The end of an object, list, number or string is found."""
    assert end_of_value(text) == end

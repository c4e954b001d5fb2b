"""Every field of a vendor's requests, as its own library declares them, is in the tables of docs/compatibility.md.

A field's name there is its path; ``[…]`` is the type (or role) of the object that it is in, where objects of several
types may stand, and may be left out. Blocks of contents are named by their type alone, wherever they are.
"""

from __future__ import annotations

import base64
import itertools
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import anthropic.types
import anthropic.types.beta
import httpx
import msgspec
import openai.types
import pytest
import typing_extensions

from corral.api.http.anthropic import known_fields as anthropic_fields
from corral.api.http.anthropic.bodies import MessagesBody
from corral.api.http.go_json import decode_body
from corral.api.http.openai import known_fields as openai_fields
from corral.api.http.openai.bodies import ChatCompletionBody, CompletionBody, OpenAIEmbeddingBody
from corral.api.http.openai.responses.body import ResponseBody
from corral.core.ports.web import SearchResult, WebPage
from corral.core.web.access import WebAccess
from tests.api.conftest import running_server
from tests.api.test_tools import WEIGHTS

MODEL = "caller"
HELLO = [{"role": "user", "content": "hello"}]
PIXEL = base64.b64encode(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;").decode()
MEDIA = ("image.", "image_url.", "input_audio.", "input_image.")
"""The models of these tests have no eyes and ears: such requests never get an answer that could tell."""

SAMPLES: Mapping[str, Any] = {"data": PIXEL, "arguments": "{}", "source": {"type": "text", "data": "x"}, "input": {}}
NEEDED: Mapping[str, Mapping[str, Any]] = {
    "BetaSystemMessageParam": {"content": "x"},
    "ChatCompletionAssistantMessageParam": {"content": "x"},
    "JSONSchema": {"schema": {"type": "object"}},
}
"""What the server asks for beyond what a type declares as required."""

QUALIFIERS = (Annotated, typing_extensions.Required, typing_extensions.NotRequired, typing_extensions.ReadOnly)


class Case(NamedTuple):
    """A name, a route, what its library sends there, and how the server finds out what it ignores."""

    name: str
    path: str
    vendor_type: Any
    least: Mapping[str, Any]
    body: Any
    ignored: Callable[[Any], Iterable[str]]


CASES = (
    Case(
        "/v1/chat/completions",
        "/v1/chat/completions",
        openai.types.chat.completion_create_params.CompletionCreateParamsStreaming,
        {"model": MODEL, "messages": HELLO, "max_tokens": 1},
        ChatCompletionBody,
        openai_fields.ignored_fields,
    ),
    Case(
        "/v1/completions",
        "/v1/completions",
        openai.types.completion_create_params.CompletionCreateParamsStreaming,
        {"model": MODEL, "prompt": "hello", "max_tokens": 1},
        CompletionBody,
        openai_fields.ignored_fields,
    ),
    Case(
        "/v1/embeddings",
        "/v1/embeddings",
        openai.types.embedding_create_params.EmbeddingCreateParams,
        {"model": MODEL, "input": "hello"},
        OpenAIEmbeddingBody,
        lambda body: body.unknown,
    ),
    Case(
        "/v1/responses",
        "/v1/responses",
        openai.types.responses.response_create_params.ResponseCreateParamsStreaming,
        {"model": MODEL, "input": HELLO, "max_output_tokens": 1},
        ResponseBody,
        lambda body: body.ignored,
    ),
    Case(
        "/v1/messages",
        "/v1/messages",
        anthropic.types.message_create_params.MessageCreateParamsStreaming,
        {"model": MODEL, "messages": HELLO, "max_tokens": 1},
        MessagesBody,
        anthropic_fields.ignored_fields,
    ),
    Case(
        "/v1/messages?beta=true",
        "/v1/messages",
        anthropic.types.beta.message_create_params.MessageCreateParamsStreaming,
        {"model": MODEL, "messages": HELLO, "max_tokens": 1},
        MessagesBody,
        anthropic_fields.ignored_fields,
    ),
)


class Table:
    """The table of one route: rows of statuses and the names of fields."""

    def __init__(self, route: str) -> None:
        text = Path("docs/compatibility.md").read_text()
        section = re.split(r"^##", text.split(f"\n### Fields of `{route}`\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
        self._statuses: dict[str, str] = {}
        for row in re.finditer(r"^\| (\w[^|]*) \| (.*) \|$", section, re.MULTILINE):
            status = row[1].partition(",")[0]
            assert status in ("honoured", "met anyway", "ignored", "refused")
            for name in re.findall(r"`([^`]+)`", row[2]):
                assert name not in self._statuses, f"{name} is in two rows"
                self._statuses[name] = status
        assert self._statuses

    def status(self, name: str) -> str | None:
        """The status of a field: its own, or that of an object around it if that has no effect as a whole."""
        own = self._own(name)
        while own is None and "." in name:
            name = name.rpartition(".")[0]
            around = self._own(name)
            own = around if around != "honoured" else self._own(f"{name}.*")
        return own

    def _own(self, name: str) -> str | None:
        parts = re.split(r"(\[[^\]]*\])", name)
        choices = [(part, "[…]", "") if part.startswith("[") else (part,) for part in parts]
        forms = ["".join(chosen) for chosen in itertools.product(*choices)]
        names = [*forms, *(f"{form}.*" for form in forms)]
        return next((self._statuses[one] for one in names if one in self._statuses), None)


class Field(NamedTuple):
    """A field with its name in the table, its path in requests, a request that has it, and the type it may tell."""

    name: str
    path: str
    request: Any
    kind: str


class Walk:
    """All fields of a request."""

    def __init__(self, case: Case, table: Table) -> None:
        self._case = case
        self._table = table
        self._blocks: set[str] = set()

    def fields(self) -> Iterator[Field]:
        for key, hint in _hints(self._case.vendor_type).items():
            yield Field(key, key, {**self._case.least, key: _sample(hint, key)}, key)
            yield from self._within(hint, key, key, _put(lambda value: value, self._case.least, key))

    def _within(self, hint: Any, name: str, path: str, wrap: Callable[[Any], Any]) -> Iterator[Field]:
        if self._table.status(name) not in ("honoured", None):
            return
        hint = _bare(hint)
        if _is_object(hint):
            yield from self._object(hint, name, path, wrap)
        elif _is_list(hint):
            more = HELLO if path in ("messages", "input") else []
            yield from self._within(get_args(hint)[0], name, path, lambda value: wrap([value, *more]))
        elif get_origin(hint) in (Union, types.UnionType):
            for one in get_args(hint):
                yield from self._within(one, name, path, wrap)

    def _object(self, hint: Any, name: str, path: str, wrap: Callable[[Any], Any]) -> Iterator[Field]:
        tag = _tag(hint)
        if tag is not None:
            is_block = path.endswith(("content", "output")) or path == "system"
            name = tag if is_block else f"{name}[{tag}]"
            if is_block and name in self._blocks:
                return
            self._blocks.add(name)
            if self._table.status(name) == "refused":
                yield Field(name, path, wrap(_sample(hint, "")), tag)
                return
        least = _least(hint)
        for key, inner in _hints(hint).items():
            yield Field(f"{name}.{key}", f"{path}.{key}", wrap({**least, key: _sample(inner, key)}), key)
            yield from self._within(inner, f"{name}.{key}", f"{path}.{key}", _put(wrap, least, key))


def _put(wrap: Callable[[Any], Any], least: Mapping[str, Any], key: str) -> Callable[[Any], Any]:
    return lambda value: wrap({**least, key: value})


def _hints(hint: Any) -> dict[str, Any]:
    return typing_extensions.get_type_hints(hint, include_extras=True)


def _is_object(hint: Any) -> bool:
    return typing_extensions.is_typeddict(hint)


def _is_list(hint: Any) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping)


def _bare(hint: Any) -> Any:
    while True:
        if isinstance(hint, typing_extensions.TypeAliasType):
            hint = hint.__value__
        elif get_origin(hint) in QUALIFIERS:
            hint = get_args(hint)[0]
        else:
            return hint


def _is_required(hint: Any) -> bool:
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return get_origin(hint) is typing_extensions.Required


def _tag(hint: Any) -> str | None:
    """The type or role that an object must state; None if it has none, or need not."""
    for key in ("type", "role"):
        stated = _hints(hint).get(key)
        if _is_required(stated) and get_origin(_bare(stated)) is Literal:
            return str(get_args(_bare(stated))[0])
    return None


def _least(hint: Any) -> dict[str, Any]:
    """An object with what it must have."""
    required = {name: _sample(inner, name) for name, inner in _hints(hint).items() if _is_required(inner)}
    return {**required, **NEEDED.get(hint.__name__, {})}


def _sample(hint: Any, key: str) -> Any:
    """A value of a type, for the field `key`."""
    hint = _bare(hint)
    if _is_object(hint):
        return _least(hint) or {name: _sample(inner, name) for name, inner in _hints(hint).items()}
    if key in SAMPLES and not (key == "source" and "Base64" in str(hint) and "Document" not in str(hint)):
        return SAMPLES[key]
    if get_origin(hint) in (Union, types.UnionType):
        return next(_sample(one, key) for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    if _is_list(hint):
        return [_sample(get_args(hint)[0], key)]
    if get_origin(hint) is dict:
        return {"type": _sample(get_args(hint)[1], key)}
    plain: Mapping[Any, Any] = {str: "x", int: 1, float: 1.0, bool: True}
    return plain.get(hint, "object")


class NoPages:
    """A search provider that finds nothing, and whose pages are empty."""

    async def search(self, query: str, max_results: int) -> tuple[SearchResult, ...]:
        return ()

    async def fetch(self, url: str) -> WebPage:
        return WebPage(url=url)

    async def aclose(self) -> None:
        pass


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with (
        running_server(web=WebAccess(NoPages(), NoPages())) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        server.call(lambda _: server.world.add(MODEL, data=WEIGHTS))
        yield client


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_field_is_in_the_table(client: httpx.Client, case: Case) -> None:
    """It has an effect, or what it asks for is so anyway, or the answer names it as ignored, or it is refused by
    name.
    """
    table = Table(case.path)
    wrong = []
    for field in Walk(case, table).fields():
        status = table.status(field.name)
        if status is None:
            wrong.append(f"{field.name} is not in the table")
            continue
        if status == "refused":
            answer = client.post(case.path, json=field.request)
            if answer.status_code != 400 or field.kind.removeprefix("input_") not in answer.text:
                wrong.append(f"{field.name} is refused with {answer.status_code} {answer.text}")
            continue
        body = decode_body(msgspec.json.encode(field.request), case.body)
        if (field.path in case.ignored(body)) != (status == "ignored"):
            wrong.append(f"{field.name} is {status}, but ignored: {list(case.ignored(body))}")
        if status == "ignored" and not field.name.startswith(MEDIA):
            answer = client.post(case.path, json=field.request)
            named = answer.headers.get("x-corral-ignored", "").split(", ")
            if answer.status_code != 200 or field.path not in named:
                wrong.append(f"{field.name}: {answer.status_code} {answer.text} {named}")
    assert not wrong, "\n".join(wrong)

"""Other clients of Ollama, unmodified: LangChain and LlamaIndex, and the official one for JavaScript.

They are not installed for everyday runs: see `tests.e2e.client_python`. CORRAL_CLIENTS_NODE is a folder in which
``npm install ollama`` ran.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes
from tests.api.conftest import running_server
from tests.e2e.client_python import found_by_client, python_with

NODE = os.environ.get("CORRAL_CLIENTS_NODE")
MODEL = "smollm2-135m-instruct:q4_1"

LANGCHAIN = """
from langchain_ollama import ChatOllama, OllamaEmbeddings
chat = ChatOllama(model=model, base_url=url, num_predict=6, temperature=0)
found["chat"] = chat.invoke("Hi").content
found["stream"] = "".join(chunk.content for chunk in chat.stream("Hi"))
found["structured"] = ChatOllama(model=model, base_url=url, num_predict=30, temperature=0).with_structured_output(
    Answer, method="json_schema").invoke("Is it ok?").model_dump()
found["vectors"] = len(OllamaEmbeddings(model=model, base_url=url).embed_documents(["a", "b"]))
"""
LLAMA_INDEX = """
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama
def client(tokens):
    options = {"num_predict": tokens, "temperature": 0}
    return Ollama(model=model, base_url=url, request_timeout=120, additional_kwargs=options)
hi = [ChatMessage(role="user", content="Hi")]
found["chat"] = client(6).chat(hi).message.content
found["stream"] = "".join(chunk.delta for chunk in client(6).stream_chat(hi))
found["structured"] = client(30).structured_predict(Answer, PromptTemplate("Is it ok?")).model_dump()
found["vectors"] = len(OllamaEmbedding(model_name=model, base_url=url).get_text_embedding_batch(["a", "b"]))
"""
JAVASCRIPT = """
import { Ollama } from 'ollama'
const [url, model] = process.argv.slice(-2)
const ollama = new Ollama({ host: url }), options = { num_predict: 6, temperature: 0 }
const messages = [{ role: 'user', content: 'Hi' }], schema = { type: 'object', properties: { ok: { type: 'boolean' } } }
schema.required = ['ok']
const found = { chat: (await ollama.chat({ model, messages, options })).message.content, stream: '' }
const parts = await ollama.chat({ model, messages, options, stream: true })
for await (const part of parts) found.stream += part.message.content
const longer = { num_predict: 30, temperature: 0 }
const answer = await ollama.generate({ model, prompt: 'Is it ok?', format: schema, options: longer })
found.structured = JSON.parse(answer.response)
found.vectors = (await ollama.embed({ model, input: ['a', 'b'] })).embeddings.length
console.log(JSON.stringify(found))
"""
LANGCHAIN_TOOLS = """
from langchain_ollama import ChatOllama
from langchain_core.tools import tool
@tool
def weather(city: str) -> str:
    '''Tells it.'''
    return city
chat = ChatOllama(model=model, base_url=url)
calls = chat.bind_tools([weather], tool_choice="weather").invoke("hello")
found["called"] = [(call["name"], call["args"]) for call in calls.tool_calls]
whole = None
for chunk in chat.bind_tools([weather]).stream("hello"):
    whole = chunk if whole is None else whole + chunk
found["streamed"] = [(call["name"], call["args"]) for call in whole.tool_calls]
results = [weather.invoke(call) for call in calls.tool_calls]
found["answered"] = chat.invoke([("user", "hello"), calls, *results]).content
found["structured"] = chat.with_structured_output(Weather, method="function_calling").invoke("hello").model_dump()
"""
LLAMA_INDEX_TOOLS = """
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.ollama import Ollama
def weather(city: str) -> str:
    '''Tells it.'''
    return city
tools, client = [FunctionTool.from_defaults(weather)], Ollama(model=model, base_url=url)
def calls(reply):
    return [(call.tool_name, call.tool_kwargs) for call in client.get_tool_calls_from_response(reply)]
reply = client.chat_with_tools(tools, "hello", allow_parallel_tool_calls=True)
found["called"] = calls(reply)
*_, last = client.stream_chat_with_tools(tools, "hello", allow_parallel_tool_calls=True)
found["streamed"] = calls(last)
result = ChatMessage(role="tool", content="Paris", additional_kwargs={"name": "weather"})
found["answered"] = client.chat([ChatMessage(role="user", content="hello"), reply.message, result]).message.content
found["structured"] = {"city": client.predict_and_call(tools, "hello").sources[0].raw_output}
"""
JAVASCRIPT_TOOLS = """
import { Ollama } from 'ollama'
const [url, model] = process.argv.slice(-2), ollama = new Ollama({ host: url })
const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }
const tools = [{ type: 'function', function: { name: 'weather', description: 'Tells it', parameters } }]
const messages = [{ role: 'user', content: 'hello' }]
const calls = (message) => (message.tool_calls ?? []).map((call) => [call.function.name, call.function.arguments])
const reply = await ollama.chat({ model, messages, tools })
const found = { called: calls(reply.message), streamed: [], structured: reply.message.tool_calls[0].function.arguments }
for await (const part of await ollama.chat({ model, messages, tools, stream: true })) {
  found.streamed.push(...calls(part.message))
}
messages.push(reply.message, { role: 'tool', content: 'Paris', tool_name: 'weather' })
found.answered = (await ollama.chat({ model, messages })).message.content
console.log(JSON.stringify(found))
"""
FRAME = """
import json, sys
from pydantic import BaseModel
class Answer(BaseModel):
    ok: bool
class Weather(BaseModel):
    '''Tells it.'''
    city: str
url, model = sys.argv[1:]
found = {}
%s
print(json.dumps(found))
"""


TEMPLATE = "{{ messages[-1].content }}{{ tools | tojson if tools }}{% if false %}<tool_call></tool_call>{% endif %}"


@pytest.fixture(scope="module")
def caller() -> Iterator[str]:
    """The address of a server with the model `caller`, which calls the tool `weather` twice, and `Weather`."""
    weights = gguf_bytes({**SMALL_MODEL, "llama.context_length": 4096, "tokenizer.chat_template": TEMPLATE})
    calls = "".join(
        f'<tool_call>\n{{"name": "{name}", "arguments": {{"city": "{city}"}}}}\n</tool_call>'
        for name, city in (("weather", "Paris"), ("weather", "Bonn"), ("Weather", "Paris"))
    )
    with running_server(engine={"answer": f"Let me see.\n{calls}"}) as server:
        server.call(lambda _: server.world.add("caller", data=weights))
        yield server.url


def _check_tools(found: dict[str, Any]) -> None:
    called = [["weather", {"city": "Paris"}], ["weather", {"city": "Bonn"}]]
    assert found["called"] == found["streamed"] == called
    assert found["structured"] == {"city": "Paris"}
    assert "Let me see." in found["answered"]


def _check(found: dict[str, Any]) -> None:
    assert found["chat"]
    assert found["stream"] == found["chat"]
    assert isinstance(found["structured"]["ok"], bool)
    assert found["vectors"] == 2


@pytest.mark.native
@pytest.mark.parametrize(
    ("package", "script"), [("langchain-ollama", LANGCHAIN), ("llama-index-llms-ollama", LLAMA_INDEX)]
)
def test_python_frameworks(request: pytest.FixtureRequest, package: str, script: str) -> None:
    """Chat, streams, structured output and embeddings work through the framework's own classes."""
    python = python_with(package)
    _check(found_by_client(python, FRAME % script, request.getfixturevalue("server").url, MODEL))


@pytest.mark.native
@pytest.mark.skipif(NODE is None, reason="CORRAL_CLIENTS_NODE is not set")
def test_the_client_for_javascript(server: Any) -> None:
    """The same through the official client for JavaScript."""
    command = ["node", "--input-type=module", "-", server.url, MODEL]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, input=JAVASCRIPT, cwd=NODE)
    _check(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("package", "script"), [("langchain-ollama", LANGCHAIN_TOOLS), ("llama-index-llms-ollama", LLAMA_INDEX_TOOLS)]
)
def test_tools_of_python_frameworks(request: pytest.FixtureRequest, package: str, script: str) -> None:
    """Their tools are called, in one piece and streamed, and results go back."""
    python = python_with(package)
    _check_tools(found_by_client(python, FRAME % script, request.getfixturevalue("caller"), "caller"))


@pytest.mark.skipif(NODE is None, reason="CORRAL_CLIENTS_NODE is not set")
def test_tools_of_the_client_for_javascript(caller: str) -> None:
    """The same through the official client for JavaScript."""
    command = ["node", "--input-type=module", "-", caller, "caller"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=300, input=JAVASCRIPT_TOOLS, cwd=NODE
    )
    _check_tools(json.loads(done.stdout.splitlines()[-1]))

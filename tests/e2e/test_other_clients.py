"""Other clients of Ollama, unmodified: LangChain and LlamaIndex, and the official one for JavaScript.

They are not installed for everyday runs. CORRAL_CLIENTS_PYTHON is a Python with langchain-ollama,
llama-index-llms-ollama and llama-index-embeddings-ollama; CORRAL_CLIENTS_NODE is a folder in which
``npm install ollama`` ran.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

PYTHON = os.environ.get("CORRAL_CLIENTS_PYTHON")
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
FRAME = """
import json, sys
from pydantic import BaseModel
class Answer(BaseModel):
    ok: bool
url, model = sys.argv[1:]
found = {}
%s
print(json.dumps(found))
"""


def _check(output: str) -> None:
    found = json.loads(output.splitlines()[-1])
    assert found["chat"]
    assert found["stream"] == found["chat"]
    assert isinstance(found["structured"]["ok"], bool)
    assert found["vectors"] == 2


@pytest.mark.native
@pytest.mark.skipif(PYTHON is None, reason="CORRAL_CLIENTS_PYTHON is not set")
@pytest.mark.parametrize("script", [LANGCHAIN, LLAMA_INDEX], ids=["langchain", "llama-index"])
def test_python_frameworks(server: Any, script: str) -> None:
    """Chat, streams, structured output and embeddings work through the framework's own classes."""
    command = [str(PYTHON), "-c", FRAME % script, server.url, MODEL]
    _check(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout)


@pytest.mark.native
@pytest.mark.skipif(NODE is None, reason="CORRAL_CLIENTS_NODE is not set")
def test_the_client_for_javascript(server: Any) -> None:
    """The same through the official client for JavaScript."""
    command = ["node", "--input-type=module", "-", server.url, MODEL]
    _check(
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=300, input=JAVASCRIPT, cwd=NODE
        ).stdout
    )

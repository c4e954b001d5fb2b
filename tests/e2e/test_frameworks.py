"""LangChain, LlamaIndex and LiteLLM, unmodified, at OpenAI's and Anthropic's APIs.

They are not installed for everyday runs: see `tests.e2e.client_python`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.agent_server import AGENT, CITIES, LEARNT, agent_server
from tests.e2e.client_python import found_by_client, python_with

FRAME = """
import json, sys
from pydantic import BaseModel
class Answer(BaseModel):
    '''What is found out.'''
    ok: bool
    grade: int
url, model = sys.argv[1:]
found, asked = {}, []
def weather(city: str) -> str:
    '''Tells the weather.'''
    asked.append(city)
    return f"sunny in {city}"
def ask(step, most=6):
    '''Rounds of tools, until nothing is called any more; what is said then.'''
    asked.clear()
    for _ in range(most):
        said = step()
        if said is not None:
            return {"asked": list(asked), "said": said}
def done(**values):
    print(json.dumps(values))
"""

LANGCHAIN = """
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
weather_tool = tool(weather)
def rounds(chat, streamed):
    bound, messages = chat.bind_tools([weather_tool]), [HumanMessage("How is it there?")]
    def step():
        if streamed:
            reply = None
            for chunk in bound.stream(messages):
                reply = chunk if reply is None else reply + chunk
        else:
            reply = bound.invoke(messages)
        messages.append(reply)
        messages.extend(weather_tool.invoke(call) for call in reply.tool_calls)
        return None if reply.tool_calls else reply.text
    return ask(step)
def everything(chat, methods):
    return {
        "chat": chat.invoke("Hi").text,
        "stream": "".join(chunk.text for chunk in chat.stream("Hi")),
        "rounds": [rounds(chat, False), rounds(chat, True)],
        "objects": [
            type(chat.with_structured_output(Answer, method=method).invoke("Is it ok?")).__name__ for method in methods
        ],
    }
"""
LANGCHAIN_OPENAI = """
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
chat = ChatOpenAI(model=model, base_url=url + "/v1", api_key="none", max_retries=0, seed=1)
vectors = OpenAIEmbeddings(model=model, base_url=url + "/v1", api_key="none", check_embedding_ctx_length=False)
older = OpenAI(model=model, base_url=url + "/v1", api_key="none", max_retries=0)
found = everything(chat, ["json_schema", "function_calling"])
done(**found, vectors=len(vectors.embed_documents(["a", "b"])), texts=older.batch(["a", "b"]))
"""
LANGCHAIN_RESPONSES = """
from langchain_openai import ChatOpenAI
chat = ChatOpenAI(model=model, base_url=url + "/v1", api_key="none", max_retries=0, use_responses_api=True)
done(**everything(chat, ["json_schema", "function_calling"]))
"""
LANGCHAIN_ANTHROPIC = """
from langchain_anthropic import ChatAnthropic
chat = ChatAnthropic(model=model, base_url=url, api_key="none", max_retries=0, max_tokens=500)
counted = chat.get_num_tokens_from_messages([HumanMessage("Hi")])
used = chat.invoke("Hi").usage_metadata["input_tokens"]
done(**everything(chat, ["function_calling", "json_schema"]), counted=counted == used)
"""

LLAMA_INDEX = """
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
weather_tool = FunctionTool.from_defaults(weather)
hi = [ChatMessage(role="user", content="Hi")]
def rounds(llm, streamed):
    messages = [ChatMessage(role="user", content="How is it there?")]
    def step():
        if streamed:
            *_, reply = llm.stream_chat_with_tools([weather_tool], chat_history=messages)
        else:
            reply = llm.chat_with_tools([weather_tool], chat_history=messages)
        calls = llm.get_tool_calls_from_response(reply, error_on_no_tool_call=False)
        messages.append(reply.message)
        for call in calls:
            said = str(weather_tool(**call.tool_kwargs))
            messages.append(ChatMessage(role="tool", content=said, additional_kwargs={"tool_call_id": call.tool_id}))
        return None if calls else reply.message.content
    return ask(step)
def everything(llm):
    return {
        "chat": llm.chat(hi).message.content,
        "stream": "".join(chunk.delta or "" for chunk in llm.stream_chat(hi)),
        "rounds": [rounds(llm, False), rounds(llm, True)],
        "objects": [type(llm.structured_predict(Answer, PromptTemplate("Is it ok?"))).__name__],
    }
"""
LLAMA_INDEX_OPENAI_LIKE = """
from llama_index.llms.openai_like import OpenAILike
llm = OpenAILike(model=model, api_base=url + "/v1", api_key="none", is_chat_model=True, is_function_calling_model=True,
                 context_window=4096, max_retries=0)
done(**everything(llm))
"""
LLAMA_INDEX_EMBEDDINGS = """
from llama_index.embeddings.openai import OpenAIEmbedding
embedding = OpenAIEmbedding(model_name=model, api_base=url + "/v1", api_key="none", max_retries=0)
done(vectors=len(embedding.get_text_embedding_batch(["a", "b"])))
"""
LITELLM = """
import litellm
tools = [{"type": "function", "function": {"name": "weather", "description": "Tells it", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
hi = [{"role": "user", "content": "Hi"}]
def chat(messages, **more):
    return litellm.completion(model=name, api_base=base, api_key="none", messages=messages, max_tokens=500, **more)
def rounds(streamed):
    messages = [{"role": "user", "content": "How is it there?"}]
    def step():
        reply = chat(messages, tools=tools, stream=streamed)
        if streamed:
            reply = litellm.stream_chunk_builder(list(reply))
        message = reply.choices[0].message
        messages.append(message)
        for call in message.tool_calls or ():
            said = weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": said})
        return None if message.tool_calls else message.content
    return ask(step)
def everything():
    text = chat(hi, response_format=Answer).choices[0].message.content
    return {
        "chat": chat(hi).choices[0].message.content,
        "stream": "".join(chunk.choices[0].delta.content or "" for chunk in chat(hi, stream=True)),
        "rounds": [rounds(False), rounds(True)],
        "objects": [type(Answer.model_validate_json(text)).__name__],
    }
"""
LITELLM_OPENAI = """
name, base = f"openai/{model}", url + "/v1"
vectors = litellm.embedding(model=name, api_base=base, api_key="none", input=["a", "b"]).data
done(**everything(), vectors=len(vectors))
"""
LITELLM_RESPONSES = """
reply = litellm.responses(model=f"openai/{model}", api_base=url + "/v1", api_key="none", input="Hi")
said = [part.text for item in reply.output for part in item.content]
events = litellm.responses(model=f"openai/{model}", api_base=url + "/v1", api_key="none", input="Hi", stream=True)
streamed = [event.delta for event in events if event.type == "response.output_text.delta"]
done(chat="".join(said), stream="".join(streamed))
"""
LITELLM_ANTHROPIC = """
name, base = f"anthropic/{model}", url
done(**everything())
"""
LITELLM_OLLAMA = """
name, base = f"ollama_chat/{model}", url
done(**everything())
"""

HELLO = "Nobody told me anything."
ROUNDS = [{"asked": CITIES, "said": LEARNT}] * 2
SCRIPTS = {
    "langchain-openai": LANGCHAIN + LANGCHAIN_OPENAI,
    "langchain-openai (responses)": LANGCHAIN + LANGCHAIN_RESPONSES,
    "langchain-anthropic": LANGCHAIN + LANGCHAIN_ANTHROPIC,
    "llama-index-llms-openai-like": LLAMA_INDEX + LLAMA_INDEX_OPENAI_LIKE,
    "llama-index-embeddings-openai": LLAMA_INDEX_EMBEDDINGS,
    "litellm": LITELLM + LITELLM_OPENAI,
    "litellm (responses)": LITELLM + LITELLM_RESPONSES,
    "litellm (anthropic)": LITELLM + LITELLM_ANTHROPIC,
    "litellm (ollama)": LITELLM + LITELLM_OLLAMA,
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with agent_server() as server:
        yield server.url


@pytest.mark.parametrize("client", SCRIPTS)
def test_frameworks(client: str, request: pytest.FixtureRequest) -> None:
    """Chats and streams say the same, tools are called until nothing is left to ask and their results arrive, objects
    are of the class that was asked for.
    """
    python = python_with(client.partition(" ")[0])
    url = request.getfixturevalue("url")
    found = found_by_client(python, FRAME + SCRIPTS[client], url, AGENT)
    assert found.pop("vectors", 2) == 2
    assert found.pop("counted", True) is True
    assert found.pop("texts", [HELLO] * 2) == [HELLO] * 2
    assert found.pop("chat", HELLO) == found.pop("stream", HELLO) == HELLO
    assert found.pop("rounds", ROUNDS) == ROUNDS
    assert set(found.pop("objects", ["Answer"])) == {"Answer"}
    assert not found

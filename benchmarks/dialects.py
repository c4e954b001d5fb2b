"""The three ways to ask a server for a completion: Ollama's, llama-server's and OpenAI's."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from benchmarks.client import Response, request

__all__ = ("Completion", "Dialect", "DialectName", "Generated", "detect", "first_model", "read_completion", "unload")

DialectName = Literal["ollama", "llama-server", "openai"]


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask for. `ignore_eos` makes every server generate the same number of tokens."""

    prompt: str
    max_tokens: int
    temperature: float = 0.0
    seed: int = 1
    ignore_eos: bool = True
    num_ctx: int | None = None


class Generated(msgspec.Struct, frozen=True, kw_only=True):
    """An answer. `text_at_ns` has a time for each line that contains text; token counts are the server's own."""

    text: str
    text_at_ns: list[int]
    generated_tokens: int
    prompt_tokens: int
    cached_tokens: int | None = None


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """A server: its address, its API, and the model to ask for."""

    name: DialectName
    url: str
    model: str = ""

    def path(self) -> str:
        paths = {"ollama": "/api/generate", "llama-server": "/completion", "openai": "/v1/completions"}
        return self.url.rstrip("/") + paths[self.name]

    @property
    def unloads(self) -> bool:
        """Whether the API can unload the model."""
        return self.name == "ollama"

    def body(self, completion: Completion) -> dict[str, Any]:
        sampling = {"temperature": completion.temperature, "seed": completion.seed, "ignore_eos": completion.ignore_eos}
        match self.name:
            case "ollama":
                options = {**sampling, "num_predict": completion.max_tokens}
                if completion.num_ctx is not None:
                    options["num_ctx"] = completion.num_ctx
                return {"model": self.model, "prompt": completion.prompt, "raw": True, "options": options}
            case "llama-server":
                limits = {"n_predict": completion.max_tokens, "stream": True, "cache_prompt": True}
                return {"prompt": completion.prompt, **sampling, **limits}
            case _:
                more = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": completion.max_tokens}
                return {"model": self.model, "prompt": completion.prompt, **sampling, **more}


async def detect(url: str) -> DialectName:
    """Which API a server has. Raises `OSError` if nobody listens."""
    base = url.rstrip("/")
    if (await request(base + "/api/version", method="GET", timeout_s=10)).status == 200:
        return "ollama"
    if (await request(base + "/props", method="GET", timeout_s=10)).status == 200:
        return "llama-server"
    return "openai"


async def first_model(dialect: DialectName, url: str) -> str:
    """The first model that the server lists; empty for llama-server, which has only one. Raises `RuntimeError`."""
    if dialect == "llama-server":
        return ""
    path = "/api/tags" if dialect == "ollama" else "/v1/models"
    response = await request(url.rstrip("/") + path, method="GET", timeout_s=30)
    listing = msgspec.json.decode(response.body)
    models = listing.get("models") or listing.get("data") or []
    if not models:
        raise RuntimeError(f"{url} has no model: pull or import one, or name it with --model")
    name: str = models[0].get("name") or models[0]["id"]
    return name


async def unload(dialect: Dialect) -> None:
    """Raises `RuntimeError` if the API cannot do that."""
    if not dialect.unloads:
        raise RuntimeError("only an Ollama-style server can unload its model: give --start and --api for another")
    response = await request(dialect.path(), {"model": dialect.model, "keep_alive": 0})
    if response.status != 200:
        raise RuntimeError(f"unloading: status {response.status}: {response.body[:200].decode(errors='replace')}")


def read_completion(dialect: DialectName, response: Response) -> Generated:
    """Parse a streamed answer. Raises `RuntimeError` with the server's message for an error."""
    if response.status != 200:
        raise RuntimeError(f"status {response.status}: {response.body[:500].decode(errors='replace')}")
    reader = _Reader(dialect)
    for at_ns, line in response.lines:
        payload = line.strip()
        if payload.startswith(b"data:"):
            payload = payload[5:].strip()
        if payload and payload != b"[DONE]":
            reader.take(at_ns, msgspec.json.decode(payload))
    return reader.result()


class _Reader:
    def __init__(self, dialect: DialectName) -> None:
        self._dialect = dialect
        self._texts: list[str] = []
        self._times: list[int] = []
        self._generated: int | None = None
        self._prompt = 0
        self._cached: int | None = None

    def take(self, at_ns: int, event: dict[str, Any]) -> None:
        if "error" in event:
            raise RuntimeError(f"the stream ended with an error: {event['error']}")
        text: str
        match self._dialect:
            case "ollama":
                text = event.get("response", "")
                if event.get("done"):
                    self._generated, self._prompt = event.get("eval_count", 0), event.get("prompt_eval_count", 0)
                    self._cached = event.get("cached_tokens")  # Corral's own addition
            case "llama-server":
                text = event.get("content", "")
                if event.get("stop"):
                    self._generated = event.get("tokens_predicted", 0)
                    self._prompt = event.get("tokens_evaluated", 0)
                    self._cached = event.get("timings", {}).get("cache_n")
            case _:
                text = "".join(choice.get("text") or "" for choice in event.get("choices", ()))
                if usage := event.get("usage"):
                    self._generated = usage.get("completion_tokens", 0)
                    self._prompt = usage.get("prompt_tokens", 0)
                    self._cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        if text:
            self._texts.append(text)
            self._times.append(at_ns)

    def result(self) -> Generated:
        return Generated(
            text="".join(self._texts),
            text_at_ns=self._times,
            generated_tokens=len(self._times) if self._generated is None else self._generated,
            prompt_tokens=self._prompt,
            cached_tokens=self._cached,
        )

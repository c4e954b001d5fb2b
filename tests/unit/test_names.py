"""Model names: what Ollama's grammar accepts, how a name is shown, and the name for a file."""

from __future__ import annotations

import pytest

from corral.core.errors import InvalidName
from corral.core.models.names import name_from_file, parse_name


@pytest.mark.parametrize(
    ("text", "short", "full"),
    [
        ("llama3", "llama3:latest", "registry.ollama.ai/library/llama3:latest"),
        ("llama3:8b", "llama3:8b", "registry.ollama.ai/library/llama3:8b"),
        ("me/model", "me/model:latest", "registry.ollama.ai/me/model:latest"),
        ("hf.co/ns/m:Q4_K_M", "hf.co/ns/m:Q4_K_M", "hf.co/ns/m:Q4_K_M"),
        ("localhost:5000/ns/m", "localhost:5000/ns/m:latest", "localhost:5000/ns/m:latest"),
        ("http://h/ns/m:t", "h/ns/m:t", "h/ns/m:t"),
        ("REGISTRY.ollama.ai/LIBRARY/m", "m:latest", "REGISTRY.ollama.ai/LIBRARY/m:latest"),
        ("_m.v-1:_t.x", "_m.v-1:_t.x", "registry.ollama.ai/library/_m.v-1:_t.x"),
    ],
)
def test_names_in_the_grammar(text: str, short: str, full: str) -> None:
    """A name is split from the right, defaults are filled in, and the short form leaves the defaults out."""
    name = parse_name(text)
    assert (name.short, name.full, str(name)) == (short, full, short)
    assert parse_name(name.short).key == name.key


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "m:", ":t", "/m", "ns/", "a/b/c/d", "m:t:u", "m@sha256:00", " m", "m ", "m\n", "-m", ".m", "m:.t"),
        *("n.s/m", "../m", "a/../m", "h/ns/..", "m:..", "a\\b", "m\0", "ftp://h/ns/m", "ä", "m:" + "t" * 81, "m" * 81),
        *("n" * 81 + "/m", "h" * 351 + "/n/m", "://m", "http://", "http://n/m", "https://m"),
    ],
)
def test_names_outside_the_grammar(text: str) -> None:
    """Everything else is refused, and the message shows it."""
    with pytest.raises(InvalidName):
        parse_name(text)


def test_the_greatest_lengths_are_allowed() -> None:
    """Host 350 characters, the other parts 80."""
    assert len(parse_name(f"{'h' * 350}/{'n' * 80}/{'m' * 80}:{'t' * 80}").full) == 350 + 80 * 3 + 3


def test_case_does_not_make_another_model() -> None:
    """The key compares names, and the name keeps its spelling."""
    assert parse_name("Llama3:Q4").key == parse_name("llama3:q4").key
    assert parse_name("Llama3:Q4").short == "Llama3:Q4"


@pytest.mark.parametrize(
    ("file_name", "quantization", "expected"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1", "smollm2-135m-instruct:q4_1"),
        ("gemma-3-270m-q4_k_m.gguf", "Q4_K_M", "gemma-3-270m:q4_k_m"),
        ("model-F16.gguf", "F16", "model:f16"),
        ("model_bf16.gguf", "", "model:bf16"),
        ("gpt-oss-20b-MXFP4.gguf", "", "gpt-oss-20b:mxfp4"),
        ("m-IQ4_XS.gguf", "", "m:iq4_xs"),
        ("all-MiniLM-L6-v2-int8.onnx", "", "all-minilm-l6-v2:int8"),
        ("plain.gguf", "Q8_0", "plain:q8_0"),
        ("plain.gguf", "", "plain:latest"),
        ("no suffix", "", "no-suffix:latest"),
        ("folder/My Model (v2)!.Q5_0.gguf", "", "my-model-v2:q5_0"),
        ("C:\\models\\x.gguf", "", "x:latest"),
        ("Q4_0.gguf", "Q4_0", "q4_0:q4_0"),
        ("qwen2-q4.gguf", "", "qwen2:q4"),
        ("v1.2-beta-q4_0-final.gguf", "Q4_0", "v1.2-beta-q4_0-final:q4_0"),
        ("модель.gguf", "", "model:latest"),
        ("---.gguf", "", "model:latest"),
        (f"{'long' * 40}.gguf", "", f"{'long' * 20}:latest"),
        (".gguf", "", "gguf:latest"),
    ],
)
def test_a_file_gets_a_name(file_name: str, quantization: str, expected: str) -> None:
    """The stem in lower case, its quantization as the tag, and nothing that the grammar does not allow."""
    assert name_from_file(file_name, quantization).short == expected

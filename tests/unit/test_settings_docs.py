"""docs/settings.md, docs/engines.md, docs/plugins.md and docs/cli.md say what the code says.

``CORRAL_WRITE_DOCS=1 pytest tests/unit/test_settings_docs.py`` rewrites the tables.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
import msgspec
import pytest

from corral.adapters.system.installed_packages import InstalledPackages
from corral.api.cli.command_group import cli
from corral.api.library import AsyncCorral
from corral.plugins.assembly import assemble, read_layers
from corral.plugins.engine_status import engine_status
from corral.plugins.hooks import ENGINES, HOOKS
from corral.plugins.manager import PluginManager
from corral.plugins.settings.environment import VARIABLES
from corral.plugins.settings.schema import SECTIONS, ModelSettings, TopSettings
from corral.plugins.settings.types import encode_setting_type
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes

DOCS = Path(__file__).parents[2] / "docs"
THINKS_WITH_TOOLS = (
    "{% for tool in tools or [] %}<tool>{{ tool | tojson }}</tool>{% endfor %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{{ '<think>' if enable_thinking else '<think></think>' }}"
)


def variables_of(path: tuple[str, ...]) -> str:
    wildcard = ("engines", "*", path[-1]) if path[0] == "engines" else path
    names = [name for variable in VARIABLES if variable.path == wildcard for name in variable.names]
    return ", ".join(f"`{name}`" for name in names)


def type_text(annotation: Any) -> str:
    bare = get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    if isinstance(bare, type) and not get_args(bare):
        return bare.__name__.lower()
    text = re.sub(r"[a-z_]+\.", "", str(bare)).replace("tuple[str, ...]", "list[str]").replace(" | ", " or ")
    return re.sub(r"Literal\[(.*)\]", r"\1", text)


def rows(kind: type[msgspec.Struct], prefix: tuple[str, ...]) -> Iterator[str]:
    hints = get_type_hints(kind, include_extras=True)
    described = any(hasattr(hints[field.name], "__metadata__") for field in msgspec.structs.fields(kind))
    yield "| setting | type | default | variables |" + (" what it is |" if described else "")
    yield "|---|---|---|---|" + ("---|" if described else "")
    defaults = kind()
    for field in msgspec.structs.fields(kind):
        metadata = getattr(hints[field.name], "__metadata__", ())
        help_text = next((meta.description or "" for meta in metadata if isinstance(meta, msgspec.Meta)), "")
        default = msgspec.json.encode(getattr(defaults, field.name), enc_hook=encode_setting_type).decode()
        path = (*prefix, field.encode_name)
        cells = [f"`{'.'.join(path)}`", type_text(hints[field.name]), f"`{default}`", variables_of(path)]
        yield "| " + " | ".join([*cells, *([help_text] if described else [])]) + " |"


def plugin_sections() -> Mapping[str, type[msgspec.Struct]]:
    manager = PluginManager()
    manager.load_entry_points([EntryPoint("builtin", "corral.plugins.builtin", "corral")])
    found: dict[str, type[msgspec.Struct]] = {}
    for kind in HOOKS:
        for spec in manager.specs(kind):
            settings = kind.settings_of(spec)
            if settings is not None:
                found[f"{kind.plural}.{spec.name}"] = settings
    return found


def settings_tables() -> str:
    """Everything that can be set, as Markdown."""
    lines = ["### Outside of any section", "", *rows(TopSettings, ())]
    sections: dict[str, type[msgspec.Struct]] = {**SECTIONS, 'models."NAME"': ModelSettings, **plugin_sections()}
    for name, kind in sections.items():
        lines += ["", f"### `[{name}]`", "", *rows(kind, tuple(name.split(".")))]
    return "\n".join(lines) + "\n"


def command_texts() -> str:
    """The help of every command."""
    parts = []
    context = click.Context(cli, info_name="corral", **cli.context_settings)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        text = click.Context(command, info_name=name, parent=context, max_content_width=100, terminal_width=100)
        parts.append(f"### corral {name}\n\n```text\n{command.get_help(text)}\n```\n")
    return "\n".join(parts)


def engine_table() -> str:
    """What `corral engines` prints about the built-in engines, without the columns that depend on what is installed."""
    manager = PluginManager()
    manager.load_entry_points([EntryPoint("builtin", "corral.plugins.builtin", "corral")])
    lines = ["| engine | what it is | takes | tasks | runs in | install |", "|---|---|---|---|---|---|"]
    for spec in manager.specs(ENGINES):
        engine = engine_status(spec, InstalledPackages())
        install = f"`{spec.install_hint.replace('corral[', '.[')}`" if spec.install_hint else "built in"
        cells = [f"`{engine.name}`", engine.summary, engine.takes or "-"]
        cells += [", ".join(engine.tasks), ", ".join(engine.runners), install]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def hook_sections() -> str:
    """Every hook with its signature, and what it is for."""
    sections = []
    for kind in HOOKS:
        signature = f"{kind.hook}(register: Registrar[{kind.spec_type.__name__}]) -> None"
        sections.append(f"### {signature}\n\n{kind.doc}\n")
    return "\n".join(sections)


@pytest.mark.parametrize(
    ("page", "render"),
    [
        ("settings.md", settings_tables),
        ("cli.md", command_texts),
        ("engines.md", engine_table),
        ("plugins.md", hook_sections),
    ],
)
def test_the_generated_part_of_a_page_is_current(page: str, render: Any) -> None:
    """Every setting with its type, default and variables; every command with its flags."""
    text = (DOCS / page).read_text()
    before, begin, rest = text.partition("<!-- generated -->\n")
    _, end, after = rest.partition("<!-- end -->")
    assert begin
    assert end
    current = f"{before}{begin}\n{render()}\n{end}{after}"
    if os.environ.get("CORRAL_WRITE_DOCS"):
        (DOCS / page).write_text(current)
    else:
        assert text == current, f"CORRAL_WRITE_DOCS=1 pytest {Path(__file__).name} writes {page} anew"


def code_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


def test_the_first_plugin_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example is a complete plugin: it is found, registers an engine, and the engine answers."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "corral_parrot.py").write_text(code_blocks("plugins.md")[0])
    manager = PluginManager()
    manager.load_entry_points([EntryPoint("builtin", "corral.plugins.builtin", "corral")])
    manager.register(import_module("corral_parrot"), "parrot")
    assert manager.statuses[-1].provides == ("engine: parrot",)
    file = tmp_path / "small.gguf"
    file.write_bytes(gguf_bytes())

    async def main() -> str:
        flags = {"stores.filesystem.root": str(tmp_path / "store")}
        assembly = await assemble(
            read_layers("", environment={}, flags=flags), default_runner="thread", manager=manager
        )
        try:
            async with AsyncCorral(runtime=assembly.runtime) as corral:
                await corral.import_model(file, name="small")
                answer = await corral.generate("small", "Polly wants a cracker", engine="parrot", raw=True)
        finally:
            await assembly.aclose()
        return answer.text

    try:
        assert asyncio.run(main()) == "Polly wants a cracker "
    finally:
        del sys.modules["corral_parrot"]


@pytest.mark.parametrize("ability", ["tools=", "think=", "dimensions=", ".tokenize(", ".detokenize("])
def test_every_ability_is_in_an_example(ability: str) -> None:
    """The library's page shows how it is used, not only that it is there."""
    assert any(ability in example for example in code_blocks("library.md"))


@pytest.mark.parametrize("example", code_blocks("library.md"))
def test_every_example_of_the_library_page_runs(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs unchanged, with the fake engine in place of a real one."""
    monkeypatch.setenv("CORRAL_MODELS", str(tmp_path / "store"))
    monkeypatch.setenv("CORRAL_ENGINE", "fake")
    monkeypatch.setenv("CORRAL_CONFIG", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file, able = tmp_path / "model.gguf", tmp_path / "able.gguf"
    file.write_bytes(gguf_bytes())
    reranker = tmp_path / "reranker.gguf"
    reranker.write_bytes(gguf_bytes({**SMALL_MODEL, "llama.pooling_type": 4}))
    able.write_bytes(gguf_bytes({**SMALL_MODEL, "tokenizer.chat_template": THINKS_WITH_TOOLS}))

    async def prepare() -> None:
        async with AsyncCorral() as corral:
            await corral.import_model(file, name="smollm2-135m-instruct:q4_1")
            await corral.import_model(reranker, name="bge-reranker-v2-m3")
            await corral.import_model(able, name="qwen3:0.6b")

    asyncio.run(prepare())
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/library.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()

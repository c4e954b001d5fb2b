"""Import rules that import-linter cannot check, and that nothing phones home."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import corral
import corral.plugins

ROOT = Path(corral.__file__).parent
PARTS = ("core", "adapters", "plugins", "api")

NATIVE = {"llama_cpp", "numpy", "onnx", "onnxruntime", "onnxruntime_genai", "ctransformers", "tokenizers", "llguidance"}
UPSTREAM = {"httpx"}
WEB = {"litestar", "uvicorn", "httptools", "uvloop"}
CHAT = {"prompt_toolkit", "wcwidth"}

# Who opens a connection of its own accord, and to where.
CLIENTS = {
    "adapters/engines/upstream/endpoint.py": "the address that an upstream model names",
    "adapters/registries/oci/connection_pool.py": "the registry that a reference names",
    "adapters/registries/oci/large_reads.py": "nowhere: it makes the same connections faster",
    "adapters/web/checked_connections.py": "the address of a page, checked, if a setting allows fetching",
    "adapters/web/exchange.py": "the page or the search service that a setting allows",
    "adapters/web/page_fetcher.py": "nowhere: it names the type of the sockets",
    "api/cli/client.py": "the server that the user has named",
    "api/http/listening.py": "its own port, to say who has taken it",
}
CLIENT_MODULES = {
    "http.client",
    "urllib.request",
    "httpx",
    "httpcore",
    "requests",
    "aiohttp",
    "ftplib",
    "smtplib",
    "webbrowser",
}


def sources(part: str) -> list[Path]:
    files = sorted((ROOT / part).rglob("*.py"))
    assert files, f"{part} has no modules"
    return files


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports anywhere in it, except relative imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after a statement."""
    script = f"import sys; {statement}; print(); print(*{{name.partition('.')[0] for name in sys.modules}})"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(ended.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("file", sources("core"), ids=lambda file: str(file.relative_to(ROOT)))
def test_core_imports_the_standard_library_and_msgspec_only(file: Path) -> None:
    """According to its source: it imports nothing else, not even inside a function."""
    tops = {module.partition(".")[0] for module in imports(file)}
    assert tops <= sys.stdlib_module_names | {"msgspec", "corral"}
    assert all(module.startswith("corral.core") for module in imports(file) if module.partition(".")[0] == "corral")


def test_core_loads_the_standard_library_and_msgspec_only() -> None:
    """At run time: all of its modules together bring in no other package."""
    names = [
        ".".join(("corral", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for file in sources("core")
    ]
    found = loaded_by("import " + ", ".join(sorted(names)))
    # What a virtual environment's own start-up files load is not ours; msgspec takes typing_extensions where it is.
    assert found - loaded_by("pass") <= sys.stdlib_module_names | {"msgspec", "typing_extensions", "corral"}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import corral", NATIVE | UPSTREAM | WEB | CHAT | {"msgspec", "pluggy", "click", "rich", "jinja2"}),
        ("from corral import Corral; Corral", NATIVE | UPSTREAM | WEB | CHAT | {"click", "rich"}),
        ("import corral.plugins.builtin", NATIVE | UPSTREAM | WEB | {"jinja2"}),
        (
            "from corral.plugins.assembly import load_plugins, read_layers; load_plugins(read_layers(''))",
            NATIVE | UPSTREAM | WEB,
        ),
        ("import corral.api.cli", NATIVE | UPSTREAM | WEB | CHAT),
        ("import corral.api.cli.run", NATIVE | UPSTREAM | WEB | CHAT),
        (
            "from corral.api.cli.command_group import cli; cli.main(['list'], standalone_mode=False)",
            NATIVE | UPSTREAM | WEB | CHAT,
        ),
    ],
)
def test_what_is_heavy_is_imported_late(
    statement: str, absent: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an engine nor the web framework is imported before it is needed."""
    monkeypatch.setenv("CORRAL_MODELS", str(tmp_path))
    monkeypatch.setenv("CORRAL_CONFIG", "")
    assert not loaded_by(statement) & absent


def test_what_authors_import_is_light_in_the_process_of_a_model() -> None:
    """There, `corral.plugins` adds only pluggy, and neither an event loop nor anything of the server."""
    child = "import sys, corral.adapters.runners.child"
    script = f"{child}; before = set(sys.modules); import corral.plugins; print(*set(sys.modules) - before)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    added = ended.stdout.split()
    assert {name.partition(".")[0] for name in added} <= sys.stdlib_module_names | {"corral", "pluggy"}
    rooms = {".".join(name.split(".")[:3]) for name in added}
    assert not rooms & {f"corral.core.{room}" for room in ("catalog", "conversion", "scheduling", "generation")}
    assert "asyncio" not in added


def test_what_authors_import_on_use_is_there() -> None:
    """The few names that would make `import corral.plugins` slow are imported on first access."""
    for name in ("Runtime", "abandoned", "LogitsSampler", "TokenChooser", "ModelTokens"):
        assert getattr(corral.plugins, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        import_module("corral.plugins").nothing  # noqa: B018 - asking is the test


@pytest.mark.parametrize("part", PARTS)
def test_only_named_modules_make_connections(part: str) -> None:
    """Nothing else imports a client of any protocol, and no module has a web address outside of its comments."""
    for file in sources(part):
        where = file.relative_to(ROOT).as_posix()
        if where not in CLIENTS:
            assert not CLIENT_MODULES & set(imports(file)), where
        assert not list(addresses(file)), where


def addresses(file: Path) -> Iterator[str]:
    """Texts in the code that name another machine's web address."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            _, found, host = node.value.partition("://")
            if found and node.value.startswith("http") and host[:1].isalnum():
                yield node.value


def test_the_public_names_are_there() -> None:
    """`import corral` offers what it lists, each under its own name."""
    for name in corral.__all__:
        assert getattr(corral, name) is not None
    assert corral.__dir__() == sorted(corral.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        import_module("corral").nothing  # noqa: B018 - asking is the test

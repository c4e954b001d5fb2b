"""A model with real weights answers from every kind of store, without a pull."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from corral.api.library import Corral

pytestmark = pytest.mark.native


def _answer(store: str, **settings: object) -> str:
    with Corral(store=store, engine="llama-cpp", config="", settings=settings) as corral:
        [model] = corral.list()
        result = corral.generate(
            model.name.short, "The capital of France is", raw=True, options={"num_predict": 2, "temperature": 0}
        )
    assert result.usage.generated_tokens == 2
    return result.text


@pytest.fixture(scope="module")
def plain(shallow: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plain") / "models"
    with Corral(store=str(root), config="") as corral:
        corral.import_model(shallow("Q4_1"), name="small")
    return root


@pytest.fixture(scope="module")
def expected(plain: Path) -> str:
    return _answer(str(plain))


def test_a_model_answers_from_an_image_layout(shallow: Callable[[str], Path], tmp_path: Path, expected: str) -> None:
    """The same text as from Ollama's layout; the layout holds nothing but the model when it is unloaded."""
    store = f"oci-layout:{tmp_path / 'layout'}"
    with Corral(store=store, config="") as corral:
        corral.import_model(shallow("Q4_1"), name="small")
    assert _answer(store) == expected
    assert not [path for path in (tmp_path / "layout" / ".corral" / "pins").rglob("*") if path.is_file()]


def test_a_model_answers_from_a_registry(
    shallow: Callable[[str], Path], docker_registry: str, tmp_path: Path, expected: str
) -> None:
    """Imported with one cache, it answers with another that has none of it, and is deleted."""
    store = f"oci://{docker_registry}/real"
    with Corral(store=store, config="", settings={"stores.oci.cache": str(tmp_path / "one")}) as corral:
        corral.import_model(shallow("Q4_1"), name="small")
    cache = {"stores.oci.cache": str(tmp_path / "other")}
    assert _answer(store, **cache) == expected
    with Corral(store=store, config="", settings=cache) as corral:
        corral.delete("small")
        assert corral.list() == []


def test_a_model_of_a_layer_answers(plain: Path, tmp_path: Path, expected: str) -> None:
    """A layer's weights are loaded where they are."""
    assert _answer(str(tmp_path / "own"), store_layers=[str(plain)]) == expected
    assert not [path for path in (tmp_path / "own").rglob("*") if path.is_file() and path.stat().st_size > 1024 * 1024]

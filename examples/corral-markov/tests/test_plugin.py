"""The package as Corral finds it: import, answer, command and route, in one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from litestar.testing import TestClient

from corral import Corral
from corral.api.http.app import create_app
from corral.plugins import RandomAccessFile
from corral_markov.cli import markov
from corral_markov.http import router
from corral_markov.reader import MarkovReader


def test_corral_finds_it(tmp_path: Path) -> None:
    """The entry point is installed, and everything that it registers is there."""
    with Corral(models=tmp_path, config="") as corral:
        [status] = [plugin for plugin in corral.runtime().plugins if plugin.name == "markov"]
    assert (status.state, status.reason) == ("loaded", "")
    assert status.provides == ("engine: markov", "metadata reader: markov", "route: markov", "command: markov")


def test_from_a_text_to_an_answer(tmp_path: Path, text: str) -> None:
    """Train, import, ask: the engine is found by the file's format alone."""
    (tmp_path / "cats.txt").write_text(text)
    done = CliRunner().invoke(markov, ["train", str(tmp_path / "cats.txt"), str(tmp_path / "cats.markov")])
    assert done.exit_code == 0, done.output
    assert "ways on from" in done.output
    with Corral(models=tmp_path / "models", config="") as corral:
        record = corral.import_model(tmp_path / "cats.markov")
        assert (record.name.short, record.format) == ("cats:latest", "markov")
        answer = corral.generate("cats", "Once upon", options={"temperature": 0, "num_predict": 4}, stream=False)
        assert answer.text == " a time a horse"


def test_the_route(tmp_path: Path, chain_file: Path) -> None:
    """It lists the words that may follow; an unknown model gets the same response as on Ollama's routes."""
    with Corral(models=tmp_path / "models", config="") as corral:
        corral.import_model(chain_file)
        with TestClient(create_app(corral.runtime(), [router]), base_url="http://127.0.0.1") as client:
            found = client.get("/markov/cats/next", params={"after": "Once upon"}).json()
            assert found == [{"word": "a", "probability": 1.0}]
            missing = client.get("/markov/nobody/next")
            assert missing.status_code == 404
            assert "nobody" in missing.json()["error"]


def test_the_reader(chain_file: Path, tmp_path: Path) -> None:
    """It recognizes its files by their content only."""
    reader = MarkovReader()
    (tmp_path / "other.markov").write_text("GGUF")
    with RandomAccessFile(tmp_path / "other.markov") as source:
        assert not reader.recognises(source)
    with RandomAccessFile(chain_file) as source:
        assert reader.recognises(source)
        metadata = reader.read(source)
        assert (metadata.format, metadata.keys["markov.order"]) == ("markov", 2)
        assert reader.tensors(source) == []
        assert set(reader.describe(source, verbose=False)) == {"markov.order", "markov.contexts"}


@pytest.mark.parametrize("order", ["0", "99"])
def test_the_command_refuses(tmp_path: Path, order: str) -> None:
    """An order out of range leaves no file."""
    (tmp_path / "t.txt").write_text("a b c.")
    done = CliRunner().invoke(markov, ["train", str(tmp_path / "t.txt"), str(tmp_path / "t.markov"), "--order", order])
    assert done.exit_code != 0
    assert not (tmp_path / "t.markov").exists()

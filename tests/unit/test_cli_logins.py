"""``corral login`` and ``logout``: what is kept, what is checked first, and what is printed."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from corral.api.cli import main
from corral.plugins.testing.fake_registry import FakeRegistry

Run = Callable[..., tuple[object, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs ``corral`` in this process for a user with an empty home; returns status, output and errors."""
    absent = ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG", "CORRAL_CONFIG", "CORRAL_HOST")
    environment = dict.fromkeys(absent) | {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "CORRAL_MODELS": str(tmp_path / "store"),
    }

    def call(*arguments: str, input: str = "") -> tuple[object, str, str]:
        with CliRunner().isolation(input=input, env=environment) as (out, err, _):
            status: object = 0
            try:
                main(arguments)
            except SystemExit as end:
                status = end.code
            return status, out.getvalue().decode(), err.getvalue().decode()

    return call


@pytest.fixture(params=["basic", "token"])
def guarded(request: pytest.FixtureRequest, fake: FakeRegistry) -> FakeRegistry:
    """A registry with one user."""
    fake.demands = request.param
    fake.logins["me"] = "pass:word"
    return fake


def test_a_login_is_used_until_it_is_forgotten(guarded: FakeRegistry, run: Run, tmp_path: Path) -> None:
    """By later commands; the file belongs to its owner alone, and keeps what else is in it."""
    path = tmp_path / "config" / "corral" / "credentials.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"auths":{"other.example":{"auth":"eDp5"}},"more":1}')
    pulled = ("pull", f"oci://{guarded.host}/house/small")
    assert "unauthorized: access denied" in run(*pulled)[2]
    named = f"http://{guarded.host}/"
    assert run("login", named, "-u", "me", "--password-stdin", input="pass:word\n") == (
        0,
        f"logged in to {named}\n",
        "",
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = json.loads(path.read_text())
    assert (kept["more"], set(kept["auths"])) == (1, {"other.example", guarded.host})
    assert "does not exist" in run(*pulled)[2]
    assert run("logout", guarded.host) == (0, f"logged out of {guarded.host}\n", "")
    assert json.loads(path.read_text())["auths"] == {"other.example": {"auth": "eDp5"}}
    assert run("logout", guarded.host)[1] == f"there was no login for {guarded.host}\n"
    assert "unauthorized: access denied" in run(*pulled)[2]


def test_a_login_that_the_registry_refuses(guarded: FakeRegistry, run: Run, tmp_path: Path) -> None:
    """Is not kept; neither is one that cannot be checked."""
    wrong = run("login", guarded.host, "-u", "me", "--password-stdin", input="sesame-street\n")
    assert wrong[0] == 1
    assert "unauthorized: access denied" in wrong[2]
    assert f"{guarded.host} does not know this user name with this password" in wrong[2]
    assert "corral login" not in wrong[2]  # which has just been tried
    assert "sesame" not in wrong[2]
    assert run("login", "127.0.0.1:9", "-u", "me", "--password-stdin", input="x\n")[0] == 1
    assert not (tmp_path / "config" / "corral" / "credentials.json").exists()


def test_how_a_login_is_stated_wrongly(run: Run, tmp_path: Path) -> None:
    """Each mistake has an error that says what to do; a file that cannot be read is left alone."""
    for arguments, said in (
        (("login", "reg.example"), "use --password-stdin"),
        (("login", "reg.example", "--password-stdin"), "needs --username"),
        (("login", "reg.example", "-u", "me", "--password-stdin"), "password is empty"),
        (("login", "-u", "me"), "by their key"),
        (("logout", "not a host"), "not the host of a registry: 'not a host'"),
        (("logout", "reg.example/with/path"), "not the host of a registry"),
        (("logout",), "Missing argument 'HOST'"),
    ):
        status, _, err = run(*arguments)
        assert (status, said in err) in ((1, True), (2, True)), (arguments, err)
    path = tmp_path / "config" / "corral" / "credentials.json"
    path.parent.mkdir(parents=True)
    path.write_text("[]")
    assert "is not a file of logins" in run("logout", "reg.example")[2]
    assert path.read_text() == "[]"


@pytest.mark.parametrize("host", [(), ("ollama.com",), ("registry.ollama.ai",)])
def test_the_key_for_ollamas_registry(host: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    """Its public half is printed, the same each time; what to do with it is said beside it."""
    status, out, err = run("login", *host)
    assert status == 0
    assert out == (tmp_path / ".ollama" / "id_ed25519.pub").read_text()
    assert out.startswith("ssh-ed25519 ")
    assert "ollama.com/settings/keys" in err
    assert run("login", *host)[1] == out

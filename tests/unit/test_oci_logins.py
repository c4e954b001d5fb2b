"""What HTTP registries are shown: tokens, passwords and signatures, to them alone, and never in circles."""

from __future__ import annotations

import asyncio
import base64
import json
import stat
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.registries.oci.auth_files import Login
from corral.adapters.registries.oci.challenges import Challenge, parse_challenges
from corral.adapters.registries.oci.credential_helpers import ask_helper
from corral.adapters.registries.oci.ollama_key import OllamaKey
from corral.adapters.registries.oci.registry import OciRegistry
from corral.core.errors import NotFound, SourceError
from corral.core.models.digests import digest_of
from corral.core.models.references import Reference, parse_reference
from corral.plugins.testing.fake_registry import FakeRegistry
from corral.plugins.testing.registry import fetched, push_blob, push_model
from tests.unit.registry_clients import run

MakeClient = Callable[..., OciRegistry]
DATA = bytes(range(256)) * 2000


def one(fake: FakeRegistry, scheme: str = "oci", tag: str = "t") -> Reference:
    return parse_reference(f"{scheme}://{fake.host}/house/small:{tag}")


def docker_config(home: Path, **content: Any) -> dict[str, str]:
    """Writes Docker's file of logins; returns the environment that names it."""
    (home / "config.json").write_text(json.dumps(content))
    return {"DOCKER_CONFIG": str(home)}


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def guarded(fake: FakeRegistry) -> FakeRegistry:
    """A registry that grants tokens to one user."""
    fake.demands = "token"
    fake.logins["me"] = "pass:word"
    return fake


def test_tokens_are_asked_for_once(guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path) -> None:
    """The first answer says what is demanded; all later requests carry a token, one to push and one to pull."""

    async def work(client: OciRegistry) -> None:
        await push_model(client, one(guarded), b"{}", ("x/w", DATA))
        await asyncio.gather(*(fetched(client, one(guarded), digest_of(DATA), start) for start in range(8)))

    environment = docker_config(tmp_path, auths={guarded.host: auth("me", "pass:word")})
    run(oci_client(environment), work)
    scopes = [seen.path.partition("scope=")[2].partition("&")[0] for seen in guarded.requests("GET", "/token")]
    assert scopes == ["repository%3Ahouse%2Fsmall%3Apull%2Cpush", "repository%3Ahouse%2Fsmall%3Apull"]
    assert [request for request in guarded.seen if "authorization" not in request.headers] == guarded.seen[:2]


def test_what_is_public_needs_no_login(guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path) -> None:
    """An anonymous token is enough to pull."""
    guarded.demands = ""
    run(oci_client(), lambda client: push_model(client, one(guarded), b"{}"))
    guarded.demands, guarded.anonymous_pulls = "token", True
    run(oci_client(), lambda client: client.manifest(one(guarded)))
    with pytest.raises(SourceError, match="unauthorized: access denied") as caught:
        run(oci_client(), lambda client: push_model(client, one(guarded), b"{}", ("x/w", b"new")))
    assert caught.value.remedy == f"corral login {guarded.host}"


def test_a_registry_that_is_never_content(guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path) -> None:
    """A second 401 is an error; there is no third attempt."""
    environment = docker_config(tmp_path, auths={guarded.host: auth("me", "pass:word")})
    demand = {"WWW-Authenticate": f'Bearer realm="{guarded.url}/token",service="fake",scope="repository:x:pull"'}
    guarded.fault("GET", "/manifests/", lambda request: request.error(401, "UNAUTHORIZED", "no", demand), times=9)
    with pytest.raises(SourceError, match=r"unauthorized: access denied \(no\)"):
        run(oci_client(environment), lambda client: client.manifest(one(guarded)))
    assert len(guarded.requests("GET", "/manifests/")) == 2
    assert len(guarded.requests("GET", "/token")) == 1


def test_a_wrong_password(guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path) -> None:
    """Is told as such, without the password."""
    environment = docker_config(tmp_path, auths={guarded.host: auth("me", "sesame-street")})
    for demands in ("token", "basic"):
        guarded.demands = demands
        with pytest.raises(SourceError, match="unauthorized: access denied") as caught:
            run(oci_client(environment), lambda client: client.manifest(one(guarded)))
        assert "sesame" not in f"{caught.value} {caught.value.remedy}"


def test_a_token_that_is_taken_back(guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path) -> None:
    """A 401 in the middle of a push gets another token, and the piece is sent again."""
    environment = docker_config(tmp_path, auths={guarded.host: auth("me", "pass:word")})

    async def work(client: OciRegistry) -> None:
        digest = digest_of(DATA)
        writer = await client.begin(one(guarded), digest, len(DATA))
        for start in range(0, len(DATA), 100_000):
            await writer.write(DATA[start : start + 100_000])
            guarded.expire_tokens()
        await writer.commit()
        guarded.expire_tokens()
        assert await fetched(client, one(guarded), digest) == DATA

    run(oci_client(environment), work)


def test_a_token_is_replaced_before_it_expires(guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path) -> None:
    """After four fifths of a short life; without a stated one, after fifty seconds."""
    now_s = 0.0
    environment = docker_config(tmp_path, auths={guarded.host: auth("me", "pass:word")})

    async def work(client: OciRegistry) -> None:
        nonlocal now_s
        await push_model(client, one(guarded), b"{}")
        for life_s, at_s, expected in ((None, 0, 0), (None, 49, 0), (20, 51, 1), (20, 66, 1), (20, 68, 2)):
            guarded.token_life_s, now_s = life_s, at_s
            await client.blob_size_bytes(one(guarded), digest_of(b"{}"))
            asked = [seen for seen in guarded.requests("GET", "/token") if "pull%2Cpush" not in seen.path]
            assert len(asked) == expected + 1, at_s

    guarded.token_life_s = None
    run(oci_client(environment, clock=lambda: now_s), work)


def test_token_servers_that_take_posts_only(guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path) -> None:
    """A password goes by OAuth2 then; an identity token always does."""
    guarded.token_methods = {"POST"}
    environment = docker_config(tmp_path, auths={guarded.host: auth("me", "pass:word")})
    run(oci_client(environment), lambda client: push_model(client, one(guarded), b"{}"))
    assert len(guarded.requests("POST", "/token")) == 1
    guarded.identity_tokens.add("long-lived")
    guarded.logins.clear()
    environment = docker_config(tmp_path, auths={guarded.host: {"identitytoken": "long-lived"}})
    run(oci_client(environment), lambda client: client.manifest(one(guarded)))
    assert len(guarded.requests("POST", "/token")) == 2


def test_no_login_reaches_another_host(guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path) -> None:
    """Neither where blobs are, nor where uploads go, nor to a storage that asks for one."""
    with FakeRegistry() as storage:
        elsewhere = storage.url.replace("127.0.0.1", "localhost")
        storage.repositories = guarded.repositories
        storage.stored_parts = guarded.stored_parts
        guarded.blobs_at = guarded.uploads_at = elsewhere

        async def work(client: OciRegistry) -> None:
            writer = await client.begin(one(guarded), digest_of(DATA), len(DATA))
            for start in range(0, len(DATA), 100_000):
                await writer.write(DATA[start : start + 100_000])
            await writer.commit()
            assert await fetched(client, one(guarded), digest_of(DATA), 7) == DATA[7:]
            demand = {"WWW-Authenticate": 'Basic realm="give me your password"'}
            storage.fault("GET", "/storage/", lambda request: request.error(401, "UNAUTHORIZED", headers=demand), 9)
            with pytest.raises(SourceError, match="access denied"):
                await fetched(client, one(guarded), digest_of(DATA))

        run(oci_client(docker_config(tmp_path, auths={guarded.host: auth("me", "pass:word")})), work)
        assert {request.method for request in storage.seen} == {"GET", "PUT"}
        assert not [request for request in storage.seen if "authorization" in request.headers]


def test_where_a_password_is_not_sent(guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path) -> None:
    """To a token server on another host without TLS; one on another host of this machine may have it."""
    environment = docker_config(tmp_path, auths={guarded.host: auth("me", "pass:word")})
    guarded.realm = "http://tokens.example/token"
    with pytest.raises(SourceError, match="no TLS: it is not sent"):
        run(oci_client(environment), lambda client: client.manifest(one(guarded)))
    guarded.realm = guarded.url.replace("127.0.0.1", "localhost") + "/token"
    run(oci_client(environment), lambda client: push_model(client, one(guarded), b"{}"))
    for realm in ("ftp://x/", "https://me:pw@x/", "https:///", "https://x:99999/"):
        guarded.realm = realm
        with pytest.raises(SourceError):
            run(oci_client(environment), lambda client: client.manifest(one(guarded, tag="other")))


def test_two_repositories_at_once(guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path) -> None:
    """To mount, one token is for both: to write here, and to read there."""
    environment = docker_config(tmp_path, auths={guarded.host: auth("me", "pass:word")})
    other = parse_reference(f"oci://{guarded.host}/deep/down/other:1")

    async def work(client: OciRegistry) -> None:
        digest = await push_blob(client, one(guarded), DATA)
        assert await client.mount(other, digest, one(guarded))
        assert await fetched(client, other, digest) == DATA

    run(oci_client(environment), work)
    both = [seen.path for seen in guarded.requests("GET", "/token") if seen.path.count("scope=") == 2]
    assert len(both) == 1
    assert "deep%2Fdown%2Fother%3Apull%2Cpush" in both[0]
    assert "house%2Fsmall%3Apull&" in f"{both[0]}&"


def test_ollamas_key(guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path) -> None:
    """Is made at its first use, for its owner alone, and signs the token requests for Ollama's names."""
    line = OllamaKey(str(tmp_path / "id_ed25519")).public_line()
    assert stat.S_IMODE((tmp_path / "id_ed25519").stat().st_mode) == 0o600
    assert (tmp_path / "id_ed25519").read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert (tmp_path / "id_ed25519.pub").read_text() == f"{line}\n"
    with pytest.raises(SourceError, match="access denied"):
        run(oci_client(), lambda client: push_model(client, one(guarded, "ollama"), b"{}"))
    guarded.public_keys.add(line)
    run(oci_client(), lambda client: push_model(client, one(guarded, "ollama"), b"{}"))
    signed = guarded.requests("GET", "/token")[-1]
    assert [part.partition("=")[0] for part in signed.path.partition("?")[2].split("&")] == [
        *("nonce", "scope", "service", "ts")
    ]
    guarded.seen.clear()
    with pytest.raises(SourceError, match="access denied"):
        run(oci_client(), lambda client: client.manifest(one(guarded, "oci")))
    assert "authorization" not in guarded.requests("GET", "/token")[0].headers


def test_a_key_is_not_shown_to_another_host(guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path) -> None:
    """Without a login, a token server elsewhere is asked for an anonymous token."""
    guarded.realm = guarded.url.replace("127.0.0.1", "localhost") + "/token"
    guarded.anonymous_pulls = True
    with pytest.raises(NotFound):
        run(oci_client(), lambda client: client.manifest(one(guarded, "ollama")))
    [asked] = guarded.requests("GET", "/token")
    assert "authorization" not in asked.headers
    assert not (tmp_path / "id_ed25519").exists()


def test_a_key_that_is_none(tmp_path: Path) -> None:
    """Is reported with its path, and left alone."""
    path = tmp_path / "id_ed25519"
    path.write_text("nonsense")
    with pytest.raises(SourceError, match="cannot use the key"):
        OllamaKey(str(path)).public_line()
    assert path.read_text() == "nonsense"


@pytest.mark.parametrize("place", ["registry file", "runtime", "config", "docker", "own"])
def test_where_logins_are(place: str, guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path) -> None:
    """Corral's own file, Podman's in its three places, and Docker's."""
    files = {
        "registry file": ("REGISTRY_AUTH_FILE", tmp_path / "x" / "auth.json", tmp_path / "x" / "auth.json"),
        "runtime": ("XDG_RUNTIME_DIR", tmp_path / "run", tmp_path / "run" / "containers" / "auth.json"),
        "config": ("XDG_CONFIG_HOME", tmp_path / "conf", tmp_path / "conf" / "containers" / "auth.json"),
        "docker": ("DOCKER_CONFIG", tmp_path / "dock", tmp_path / "dock" / "config.json"),
        "own": ("XDG_CONFIG_HOME", tmp_path / "conf", tmp_path / "conf" / "corral" / "credentials.json"),
    }
    variable, value, path = files[place]
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"auths": {f"https://{guarded.host}/v1/": auth("me", "pass:word")}}))
    run(oci_client({variable: str(value)}), lambda client: push_model(client, one(guarded), b"{}"))


def test_the_nearest_login_counts(guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path) -> None:
    """One for a repository, or for a part of its path, comes before that of the whole registry."""
    guarded.logins = {"narrow": "n", "wide": "w"}
    logins = {f"{guarded.host}/house": auth("narrow", "n"), guarded.host: auth("wide", "w")}
    environment = docker_config(tmp_path, auths=logins)
    run(oci_client(environment), lambda client: push_model(client, one(guarded), b"{}"))
    assert "account=narrow" in guarded.requests("GET", "/token")[0].path


def test_a_file_of_logins_that_cannot_be_read(
    guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Is named in the log, and nothing in it is used."""
    environment = docker_config(tmp_path, auths=[1])
    with pytest.raises(SourceError, match="access denied"):
        run(oci_client(environment), lambda client: client.manifest(one(guarded)))
    assert "config.json are not used" in caplog.text


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """``helper(name, script)`` installs a credential helper."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()

    def install(name: str, script: str) -> None:
        program = tmp_path / "bin" / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return install


def test_credential_helpers(
    guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path, helper: Callable[[str, str], None]
) -> None:
    """The helper of a registry is asked, or else the one for all; its login is used, or its identity token."""
    answer = """read server
    [ "$1" = get ] && [ "$server" = "%s" ] || { echo "credentials not found in keychain"; exit 1; }
    echo '{"ServerURL":"x","Username":"%s","Secret":"%s"}'"""
    helper("mine", answer % (guarded.host, "me", "pass:word"))
    for config in ({"credHelpers": {guarded.host: "mine"}}, {"credsStore": "mine"}):
        environment = docker_config(tmp_path, **config)
        run(oci_client(environment), lambda client: push_model(client, one(guarded), b"{}"))
    guarded.identity_tokens.add("refreshing")
    helper("token", answer % (guarded.host, "<token>", "refreshing"))
    environment = docker_config(tmp_path, credHelpers={guarded.host: "token"}, credsStore="mine")
    run(oci_client(environment), lambda client: client.manifest(one(guarded)))
    assert len(guarded.requests("POST", "/token")) == 1


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo '{'", "no JSON"),
        ("echo out of order; exit 3", "out of order"),
        ("exec sleep 60", "did not answer within"),
        (None, "cannot be run"),
        ("echo credentials not found; exit 1", ""),
    ],
)
def test_helpers_that_fail(
    script: str | None, said: str, helper: Callable[[str, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """They are as good as empty; the log says what is wrong with them, and none is left running."""
    if script is not None:
        helper("bad", script)
    limit_s = 0.05 if script == "exec sleep 60" else 30.0
    assert asyncio.run(ask_helper("bad", ["reg.example"], limit_s=limit_s)) is None
    assert said in caplog.text
    assert asyncio.run(ask_helper("../bad", ["reg.example"])) is None


def test_hugging_faces_token(fake: FakeRegistry, oci_client: MakeClient, tmp_path: Path) -> None:
    """It comes from the environment or from the file of its tools, and is for their host alone."""
    from corral.adapters.registries.oci.addressing import host_place
    from corral.adapters.registries.oci.logins import Logins
    from corral.adapters.registries.oci.settings import OciRegistrySettings

    async def found(host: str, **environment: str) -> Login | None:
        return await Logins(OciRegistrySettings(), {"HOME": str(tmp_path), **environment}).find(host_place(host))

    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_file\n")
    for host in ("hf.co", "huggingface.co"):
        assert asyncio.run(found(host, HF_TOKEN="hf_one")) == Login(secret="hf_one", kind="bearer")
        assert asyncio.run(found(host, HF_HOME=str(tmp_path / "hf"))) == Login(secret="hf_file", kind="bearer")
        assert asyncio.run(found(host)) is None
    assert asyncio.run(found(fake.host, HF_TOKEN="hf_one")) is None
    assert "hf_one" not in repr(asyncio.run(found("hf.co", HF_TOKEN="hf_one")))


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        (
            'Bearer realm="https://x/token",service="a, b",scope="repository:x:pull,push repository:y:pull"',
            [
                Challenge(
                    scheme="bearer",
                    realm="https://x/token",
                    service="a, b",
                    scopes=("repository:x:pull,push", "repository:y:pull"),
                )
            ],
        ),
        (
            'Basic realm="with \\"quotes\\"", bearer Realm=plain , error="x"',
            [Challenge(scheme="basic", realm='with "quotes"'), Challenge(scheme="bearer", realm="plain")],
        ),
        ("Negotiate, Basic", [Challenge(scheme="negotiate"), Challenge(scheme="basic")]),
        ("", []),
        (',,, "', []),
        ('Bearer realm="never closed', [Challenge(scheme="bearer")]),
        ("=" * 100_000, []),
    ],
)
def test_what_a_registry_demands(header: str, challenges: list[Challenge]) -> None:
    """Several demands in one header, quotes and odd spellings; what is malformed is left out."""
    assert parse_challenges([header]) == challenges


@pytest.mark.parametrize(
    "header", ["a" + " " * 16_000 + ",", "a" + " " * 16_000 + ",x", ", " * 8000, "a " * 8000, 'a b="' + "\\" * 16_000]
)
def test_a_demand_of_blanks_takes_no_time(header: str) -> None:
    """However a server fills the headers of its demand, they are read in less time than it takes to send them."""
    began_s = time.process_time()
    assert len(parse_challenges([header] * 100)) <= 16
    assert time.process_time() - began_s < 5


def test_a_token_that_cannot_be_sent_is_not_shown(
    guarded: FakeRegistry, oci_client: MakeClient, tmp_path: Path
) -> None:
    """The error for a token with a line break says whose it is, and nothing of it."""

    async def work(client: OciRegistry) -> None:
        with pytest.raises(SourceError) as caught:
            await client.manifest(one(guarded))
        told = "".join(traceback.format_exception(caught.value))
        assert "characters that no header can have" in told
        assert "very" not in told

    run(oci_client(docker_config(tmp_path, auths={guarded.host: {"registrytoken": "very\nsecret"}})), work)

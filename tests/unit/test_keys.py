"""Keys: their file, what they allow, their limits, wrong tries, and ``corral keys``."""

from __future__ import annotations

import asyncio
import json
import re
import stat
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

from corral.adapters.authenticators.key_file import KeyFile
from corral.adapters.authenticators.keys import KeyAuthenticator
from corral.adapters.authenticators.settings import KeysSettings
from corral.api.cli import main
from corral.api.http.openai.several import OfChoice, SeveralAnswers
from corral.core.access.limits import RateLimits
from corral.core.access.wrong_tries import WrongTries
from corral.core.access_errors import TooManyRequests, Unauthenticated
from corral.core.errors import Conflict, InvalidRequest, StorageError
from corral.core.ports.authenticators import Credentials
from corral.core.requests.outputs import Delta, Finished, Output, Started, Usage
from corral.core.requests.principal import Principal, RequestLimits

Run = Callable[..., tuple[object, str, str]]


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "deep" / "keys.json")


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


# ── The file ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_the_hash_of_a_key_is_kept(file: KeyFile) -> None:
    """In a file that nobody else can read; the key has a prefix that scanners find."""
    key = asyncio.run(file.create(Principal(name="ann", models=("llama*",))))
    assert re.fullmatch(r"corral-[0-9a-f]{12}-[0-9a-f]{64}", key)
    text = file.path.read_text()
    assert key[-64:] not in text
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    [kept] = asyncio.run(file.list())
    assert (kept.principal.name, kept.principal.models, key.startswith(kept.shown)) == ("ann", ("llama*",), True)


def test_names_are_taken_once(file: KeyFile) -> None:
    """A second key of the same name is refused; after the first is revoked, it is not."""
    asyncio.run(file.create(Principal(name="ann")))
    with pytest.raises(Conflict, match="'ann' already"):
        asyncio.run(file.create(Principal(name="ann")))
    assert asyncio.run(file.revoke("ann")) is True
    assert asyncio.run(file.revoke("ann")) is False
    asyncio.run(file.create(Principal(name="ann")))


@pytest.mark.parametrize("name", ["", " x", "a\nb", "x" * 65, "a/b", "\x1b[0m"])
def test_names_that_keys_cannot_have(file: KeyFile, name: str) -> None:
    """What cannot be shown on a line is no name."""
    with pytest.raises(InvalidRequest, match="not the name of a key"):
        asyncio.run(file.create(Principal(name=name)))


def test_changes_at_once_are_all_kept(file: KeyFile) -> None:
    """Each change waits for the one before it, in other threads and processes."""
    threads = [
        threading.Thread(target=lambda n=n: asyncio.run(file.create(Principal(name=f"key{n}")))) for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asyncio.run(file.list())) == 12


def test_a_file_that_is_none_lets_nobody_in(file: KeyFile, caplog: pytest.LogCaptureFixture) -> None:
    """Listing says what is wrong with it; the authenticator logs that and knows nobody, until the file is whole."""
    key = asyncio.run(file.create(Principal(name="ann")))
    whole = file.path.read_bytes()
    clock = Clock()
    authenticator = KeyAuthenticator(KeysSettings(file=str(file.path)), clock_s=clock)

    async def ask() -> list[bool]:
        found = []
        for content in (whole, b'{"version":1,"keys":[{"name":"ann"}]}', b'{"version":7}', b"\xff", whole):
            file.path.write_bytes(content)
            clock.now_s += 2
            found.append(await authenticator.authenticate(Credentials(secret=key)) is not None)
        return found

    assert asyncio.run(ask()) == [True, False, False, False, True]
    assert caplog.text.count("no key is accepted") == 3
    file.path.write_bytes(b"{")
    with pytest.raises(StorageError, match="not a file of keys"):
        asyncio.run(file.list())


def test_the_file_is_looked_at_once_a_second(file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for every request, and it is read only when it has changed."""
    key = asyncio.run(file.create(Principal(name="ann")))
    clock, calls = Clock(), {"stamp": 0, "read": 0}
    authenticator = KeyAuthenticator(KeysSettings(file=str(file.path)), clock_s=clock)
    for name in calls:
        original = getattr(KeyFile, name)

        def counted(self: KeyFile, name: str = name, original: Callable[[KeyFile], object] = original) -> object:
            calls[name] += 1
            return original(self)

        monkeypatch.setattr(KeyFile, name, counted)

    async def ask() -> None:
        for _ in range(3):
            await asyncio.gather(*(authenticator.authenticate(Credentials(secret=key)) for _ in range(50)))
            clock.now_s += 1

    asyncio.run(ask())
    assert calls == {"stamp": 3, "read": 1}


def test_a_key_expires(file: KeyFile) -> None:
    """From that moment on it is as wrong as any other."""
    key = asyncio.run(file.create(Principal(name="ann"), expires_at=500))
    clock = Clock()
    authenticator = KeyAuthenticator(KeysSettings(file=str(file.path)), wall_clock_s=clock)

    async def ask() -> list[bool]:
        found = []
        for now_s in (499, 500):
            clock.now_s = now_s
            found.append(await authenticator.authenticate(Credentials(secret=key)) is not None)
        return found

    assert asyncio.run(ask()) == [True, False]


# ── What a key allows ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("pattern", "name", "may"),
    [
        ("*", "anything:latest", True),
        ("llama3", "llama3:latest", True),
        ("llama3", "llama3:8b", False),
        ("LLAMA3:*", "llama3:8B", True),
        ("llama3", "llama3.2:latest", False),
        ("hf.co/*", "hf.co/me/model:Q4_K_M", True),
        ("me/*", "you/model:latest", False),
        ("*latest*", "secret:q4", False),
        ("*ollama*", "secret:q4", False),
    ],
)
def test_which_models_a_pattern_means(pattern: str, name: str, may: bool) -> None:
    """It is compared with the name that lists show, without looking at case; no tag means latest."""
    assert Principal(name="ann", models=(pattern,)).may_use(name) is may


def test_admin_has_every_scope() -> None:
    """The other scopes include nothing but themselves."""
    assert all(Principal(name="a", scopes=frozenset({"admin"})).has(scope) for scope in ("infer", "manage", "admin"))
    assert not Principal(name="a", scopes=frozenset({"manage"})).has("infer")


# ── Limits ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_requests_per_minute() -> None:
    """As many as the limit at once, then one whenever the minute's share of one has passed."""
    clock = Clock()
    limits = RateLimits(clock)
    ann = Principal(name="ann", limits=RequestLimits(requests_per_minute=6))
    for _ in range(6):
        limits.enter(ann)
    with pytest.raises(TooManyRequests, match="6 requests per minute") as refused:
        limits.enter(ann)
    assert refused.value.retry_after_s == pytest.approx(10)
    clock.now_s += 10
    limits.enter(ann)
    left = limits.allowances(ann).requests
    assert left is not None
    assert (left.limit, left.remaining, round(left.reset_s, 6)) == (6, 0, 60)
    limits.enter(Principal(name="bob", limits=RequestLimits(requests_per_minute=1)))  # has an account of his own


def test_requests_at_once() -> None:
    """One more may begin when one has ended; a refused one does not count."""
    limits = RateLimits(Clock())
    ann = Principal(name="ann", limits=RequestLimits(parallel=2, requests_per_minute=100))
    limits.enter(ann)
    limits.enter(ann)
    with pytest.raises(TooManyRequests, match="2 requests at once"):
        limits.enter(ann)
    limits.leave(ann)
    limits.enter(ann)
    left = limits.allowances(ann).requests
    assert left is not None
    assert left.remaining == 97


def test_tokens_per_minute() -> None:
    """Those of prompt and answer count as they come; what is overdrawn has to be waited for."""
    clock = Clock()
    limits = RateLimits(clock)
    ann = Principal(name="ann", limits=RequestLimits(tokens_per_minute=60))

    async def outputs() -> AsyncGenerator[Output, None]:
        yield Started(prompt_tokens=50)
        for _ in range(20):
            yield Delta(text="x", token_count=1)
        yield Finished(reason="stop", usage=Usage(prompt_tokens=50, generated_tokens=21))

    async def read(most: int) -> None:
        async with aclosing(limits.metered(outputs(), ann)) as found:
            for _ in range(most):
                await anext(found, None)

    limits.enter(ann)
    asyncio.run(read(100))
    with pytest.raises(TooManyRequests, match="60 tokens per minute") as refused:
        limits.enter(ann)
    assert refused.value.retry_after_s == pytest.approx(12)
    clock.now_s += 12
    limits.enter(ann)
    clock.now_s += 100
    asyncio.run(read(4))  # the client leaves: what it got counts
    left = limits.allowances(ann).tokens
    assert left is not None
    assert left.remaining == 7


class _Answer:
    """A `Generation` of `world`, which counts those that run at once."""

    record, load_ns = None, 0

    def __init__(self, world: list[int]) -> None:
        self.world = world

    async def __aenter__(self) -> AsyncGenerator[Output, None]:
        self.world.append(self.world[-1] + 1)
        return self.outputs()

    async def __aexit__(self, *error: object) -> None:
        self.world.append(self.world[-1] - 1)

    async def aclose(self) -> None:
        pass

    async def outputs(self) -> AsyncGenerator[Output, None]:
        yield Started(prompt_tokens=1)
        for _ in range(20):
            await asyncio.sleep(0)
            yield Delta(text="x")
        yield Finished(reason="stop", usage=Usage(prompt_tokens=1, generated_tokens=20))


@pytest.mark.parametrize(("parallel", "most"), [(1, 1), (3, 2), (None, 8)])
@pytest.mark.parametrize("leaves", [False, True])
def test_choices_of_one_request_keep_the_limit(parallel: int | None, most: int, leaves: bool) -> None:
    """They run at once as far as it allows, beside what else runs, and the others after them; it is free afterwards."""
    limits, world, opened = RateLimits(Clock()), [0], [0]
    ann = Principal(name="ann", limits=RequestLimits(parallel=parallel))

    async def open_one(index: int) -> Any:
        opened.append(index)
        return _Answer(world)

    async def main() -> list[Output]:
        limits.enter(ann)
        if parallel and parallel > 1:
            limits.enter(ann)  # another request of theirs
        read = []
        async with SeveralAnswers(cast("Any", _Answer(world)), open_one, 8, 8, limits, ann) as answers:
            async for output in answers:
                read.append(output)
                if leaves and max(world) == most:
                    break
        return read

    read = asyncio.run(main())
    assert (max(world), world[-1]) == (most, 0)
    if not leaves:
        assert opened == list(range(8))
        assert {one.index for one in read if isinstance(one, OfChoice)} == set(range(8))
    for _ in range(2 if parallel and parallel > 1 else 1):
        limits.leave(ann)
    entered = [limits.enter_beside(ann) for _ in range(5)]
    assert sum(entered) == (parallel or 5)  # no place was lost, and none was won


def test_accounts_that_are_full_are_forgotten() -> None:
    """However many principals there are in time, few are remembered."""
    clock = Clock()
    limits = RateLimits(clock)
    for number in range(5000):
        one = Principal(name=f"key{number}", limits=RequestLimits(requests_per_minute=60))
        limits.enter(one)
        limits.leave(one)
        clock.now_s += 1
    assert len(limits._accounts) <= 1024


# ── Wrong tries ───────────────────────────────────────────────────────────────────────────────────────────────────


async def _wrong() -> None:
    """What looking at a wrong key finds."""


async def _right() -> str:
    return "ann"


def test_many_wrong_tries_wait() -> None:
    """The first ten of an address are free, then each waits for a second, four at a time; the others do not wait."""
    clock = Clock()
    gate = asyncio.Event()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await gate.wait()

    async def refused() -> None:
        raise Unauthenticated("no")

    async def main() -> None:
        tries = WrongTries(clock, sleep)
        assert await tries.examined("192.0.2.1", "a key", _right) == "ann"
        for number in range(9):
            await tries.examined("192.0.2.1", f"guess {number}", _wrong)
        with pytest.raises(Unauthenticated):
            await tries.examined("192.0.2.1", "guess", refused)
        assert slept == []
        waiting = [asyncio.create_task(tries.examined("192.0.2.1", "guess", _wrong)) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests, match="too many wrong keys"):
            await tries.examined("192.0.2.1", "guess", _wrong)
        await tries.examined("192.0.2.2", "guess", _wrong)
        assert await tries.examined("192.0.2.1", "a key", _right) == "ann"
        assert slept == [1.0] * 4
        gate.set()
        await asyncio.gather(*waiting)
        clock.now_s += 120
        await tries.examined("192.0.2.1", "guess", _wrong)
        assert slept == [1.0] * 4

    asyncio.run(main())


def test_wrong_tries_that_are_not_decided_yet() -> None:
    """Those that come at once are no more than those that come one after the other; right ones all pass in the end."""
    decide, awake = asyncio.Event(), asyncio.Event()
    looked_at: list[str] = []
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await awake.wait()

    async def attempt(tries: WrongTries, secret: str) -> str | None:
        async def look() -> str | None:
            looked_at.append(secret)
            await decide.wait()
            return "ann" if "key" in secret else None

        return await tries.examined("192.0.2.1", secret, look)

    async def main() -> None:
        tries = WrongTries(Clock(), sleep)
        broken = asyncio.create_task(tries.examined("192.0.2.1", "x", lambda: asyncio.sleep(3600, "")))
        right = [asyncio.create_task(attempt(tries, f"key {number}")) for number in range(100)]
        await asyncio.sleep(0)
        assert len(looked_at) == 9
        right[50].cancel()  # while it waits
        broken.cancel()
        decide.set()
        found = await asyncio.gather(*right, return_exceptions=True)
        assert found.count("ann") == 99
        decide.clear()
        looked_at.clear()
        wrong = [asyncio.create_task(attempt(tries, f"guess {number}")) for number in range(2000)]
        for _ in range(9):
            await asyncio.sleep(0)
        assert (len(looked_at), slept) == (10, [])
        decide.set()
        for refused in wrong[14:]:
            await asyncio.wait([refused])
        awake.set()
        said = await asyncio.gather(*wrong, return_exceptions=True)
        assert (len(looked_at), len(slept)) == (14, 4)
        assert (said.count(None), sum(isinstance(one, TooManyRequests) for one in said)) == (14, 1986)

    asyncio.run(main())


def test_one_network_is_one_address() -> None:
    """An IPv6 customer does not begin anew with each of its addresses; an IPv4 address is the same in both forms."""

    async def main() -> None:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        tries = WrongTries(Clock(), sleep)
        for number in range(10):
            await tries.examined(f"2001:db8::{number:x}", "guess", _wrong)
            await tries.examined("::ffff:192.0.2.1", "guess", _wrong)
        assert slept == []
        await tries.examined("2001:db8::ffff", "guess", _wrong)
        await tries.examined("192.0.2.1", "guess", _wrong)
        await tries.examined("2001:db8:0:1::1", "guess", _wrong)
        assert len(slept) == 2

    asyncio.run(main())


# ── corral keys ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs ``corral`` in this process for a user with an empty home; returns status, output and errors."""
    environment: dict[str, str | None] = dict.fromkeys(("CORRAL_CONFIG", "CORRAL_AUTH", "CORRAL_API_KEY"))
    environment |= {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "CORRAL_MODELS": str(tmp_path / "store"),
    }

    def call(*arguments: str) -> tuple[object, str, str]:
        with CliRunner().isolation(env=environment) as (out, err, _):
            status: object = 0
            try:
                main(arguments)
            except SystemExit as end:
                status = end.code
            return status, out.getvalue().decode(), err.getvalue().decode()

    return call


def test_a_key_from_creation_to_revocation(run: Run, tmp_path: Path) -> None:
    """It is printed once, listed without its secret, and gone once it is revoked."""
    status, out, err = run(
        "keys", "create", "ann", "--models", "llama*,qwen*", "--models", "smol", "--scopes", "manage,infer",
        "--rpm", "60", "--tpm", "10000", "--parallel", "2", "--private-prefixes", "--expires", "30d",
    )  # fmt: skip
    assert status == 0, err
    key = out.strip()
    assert "not shown again" in err
    path = tmp_path / "config" / "corral" / "keys.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    _, listed, _ = run("keys", "list")
    assert key not in listed
    for word in ("ann", key[:19], "infer,manage", "llama*,qwen*,smol", "60 rpm, 10000 tpm, 2 parallel", "from now"):
        assert word in listed
    [described] = json.loads(run("keys", "list", "--json")[1])
    assert (described["rpm"], described["tpm"], described["parallel"]) == (60, 10000, 2)
    assert described["private_prefixes"] is True
    [kept] = KeyFile(path).read()
    assert kept.principal.prefix_scope == "ann"
    assert run("keys", "revoke", "ann")[:2] == (0, "revoked ann\n")
    assert json.loads(run("keys", "list", "--json")[1]) == []


def test_a_script_creates_a_key(run: Run) -> None:
    """With --json, the key and what it may do are one object."""
    made = json.loads(run("keys", "create", "bot", "--json")[1])
    assert made["key"].startswith(made["shown"])
    assert (made["scopes"], made["models"], made["expires_at"]) == (["infer"], ["*"], None)
    assert made["private_prefixes"] is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "ann", "--scopes", "infers"), "there is no scope 'infers'"),
        (("create", "ann", "--scopes", ","), "no scope is given"),
        (("create", "ann", "--models", ""), "--models names no model"),
        (("create", "ann", "--models", " , "), "--models names no model"),
        (("create", "ann", "--expires", "soon"), "for example 12h, 30d or 8w"),
        (("create", "ann", "--expires", "0d"), "not a time after which"),
        (("create", "ann", "--rpm", "0"), "--rpm"),
        (("create", "a/b"), "not the name of a key"),
        (("create", "eve"), "there is a key 'eve' already"),
        (("revoke", "evee"), "eve"),
    ],
)
def test_what_is_wrong_is_said(run: Run, arguments: tuple[str, ...], said: str) -> None:
    """Nothing is created or revoked then."""
    run("keys", "create", "eve")
    status, _, err = run("keys", *arguments)
    assert status in (1, 2)
    assert said in err
    assert len(json.loads(run("keys", "list", "--json")[1])) == 1


def test_the_key_of_the_command_line_is_not_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`corral config` says that there is one."""
    _, out, _ = run("--set", "cli.api_key=corral-secret", "config")
    assert "corral-secret" not in out
    assert "cli.api_key" in out

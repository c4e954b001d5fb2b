"""How much each principal may still ask for: requests and tokens per minute, and requests at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from corral.core.access_errors import TooManyRequests
from corral.core.requests.outputs import Delta, Finished, Output, Started
from corral.core.requests.principal import Principal
from corral.core.values import Value

__all__ = ("Allowance", "Allowances", "RateLimits")

_PERIOD_S = 60.0
_MOST_IDLE = 1024
_BUSY_RETRY_S = 1.0
"""Nobody knows when one of the running requests will end."""


class Allowance(Value, frozen=True, kw_only=True):
    """What is left of a limit. After `reset_s` seconds, all of it is there again if nothing is used until then."""

    limit: int
    remaining: int
    reset_s: float


class Allowances(Value, frozen=True, kw_only=True):
    """What is left of a principal's limits per minute; None where it has none."""

    requests: Allowance | None = None
    tokens: Allowance | None = None


class _Bucket:
    """What is left of one limit: a whole minute's worth at first. It refills evenly, and may be overdrawn."""

    def __init__(self, limit: int, now_s: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._at_s = now_s

    def fill(self, limit: int, now_s: float) -> None:
        self._level = min(float(limit), self._level + (now_s - self._at_s) * limit / _PERIOD_S)
        self.limit, self._at_s = limit, now_s

    def take(self, count: int) -> None:
        self._level -= count

    def wait_s(self, count: int) -> float:
        """How long until there are this many; 0 if there are now. No more than all of them are waited for."""
        missing = min(count, self.limit) - self._level
        return 0.0 if missing <= 1e-9 else missing * _PERIOD_S / max(1, self.limit)

    def allowance(self) -> Allowance:
        full_s = (self.limit - self._level) * _PERIOD_S / max(1, self.limit)
        return Allowance(limit=self.limit, remaining=max(0, int(self._level + 1e-9)), reset_s=max(0.0, full_s))


class _Account:
    """The state of one principal."""

    def __init__(self) -> None:
        self.running = 0
        self.background = 0
        """How many answers go on without a request that is in progress."""
        self.has_less = asyncio.Event()
        """Set when something has ended."""
        self.turn = asyncio.Lock()
        """Of those that wait to go on in the background: the first is the first."""
        self.requests: _Bucket | None = None
        self.tokens: _Bucket | None = None

    def update(self, principal: Principal, now_s: float) -> None:
        limits = principal.limits
        self.requests = _filled(self.requests, limits.requests_per_minute, now_s)
        self.tokens = _filled(self.tokens, limits.tokens_per_minute, now_s)

    def has_room(self, parallel: int | None) -> bool:
        """Whether there may be one more answer."""
        return parallel is None or self.running + self.background < parallel

    def idle(self, now_s: float) -> bool:
        """Whether forgetting it changes nothing."""
        buckets = [one for one in (self.requests, self.tokens) if one is not None]
        for one in buckets:
            one.fill(one.limit, now_s)
        is_busy = self.running or self.background or self.turn.locked()
        return not is_busy and not any(one.allowance().reset_s for one in buckets)


class RateLimits:
    """The accounts of all principals with limits, by their names. For one event loop."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._accounts: dict[str, _Account] = {}

    def enter(self, principal: Principal) -> None:
        """A request begins: it counts until `leave`. Raises `TooManyRequests`; then it does not count."""
        account = self._account(principal)
        if account is None:
            return
        limits = principal.limits
        if limits.parallel is not None and account.running >= limits.parallel:
            raise _too_many(principal, "wait until one has ended")
        if account.tokens is not None and (wait_s := account.tokens.wait_s(1)):
            raise TooManyRequests(
                f"{principal.name!r} has used its {account.tokens.limit} tokens per minute",
                f"try again in {_shown(wait_s)}",
                retry_after_s=wait_s,
            )
        if account.requests is not None:
            if wait_s := account.requests.wait_s(1):
                raise TooManyRequests(
                    f"{principal.name!r} has made its {account.requests.limit} requests per minute",
                    f"try again in {_shown(wait_s)}",
                    retry_after_s=wait_s,
                )
            account.requests.take(1)
        account.running += 1

    def enter_beside(self, principal: Principal) -> bool:
        """One more answer begins, beside the one that a request has entered for: it counts as in progress until
        `leave`. False if the principal may not have more at once; then it does not count.
        """
        account = self._account(principal)
        if account is not None:
            if not account.has_room(principal.limits.parallel):
                return False
            account.running += 1
        return True

    def require_place(self, principal: Principal) -> None:
        """The request that has entered is about to ask a model. Raises `TooManyRequests` if answers in the background
        have all the places of the principal; requests that ask no model, such as for those answers, need none.
        """
        account, parallel = self._account(principal), principal.limits.parallel
        if account is not None and parallel is not None and account.running + account.background > parallel:
            raise _too_many(principal, "wait until the responses in the background have ended, or cancel one")

    @asynccontextmanager
    async def turn_in_background(self, principal: Principal) -> AsyncIterator[None]:
        """For an answer without a request in progress. Waits, in order, until the principal may have one more at once;
        it counts until the block ends.
        """
        account = self._account(principal)
        if account is None:
            yield
            return
        async with account.turn:
            while not account.has_room(principal.limits.parallel):
                account.has_less.clear()
                await account.has_less.wait()
            account.background += 1
        try:
            yield
        finally:
            account.background -= 1
            account.has_less.set()

    def charge_requests(self, principal: Principal, count: int) -> None:
        """Counts further answers of one request as requests. As with `charge`, more than are left may be used."""
        account = self._account(principal)
        if account is not None and account.requests is not None:
            account.requests.take(count)

    def leave(self, principal: Principal) -> None:
        """A request that had entered has ended."""
        if (account := self._accounts.get(principal.name)) is not None:
            account.running = max(0, account.running - 1)
            account.has_less.set()

    def charge(self, principal: Principal, tokens: int) -> None:
        """Counts tokens that were computed. More than are left may be used: later requests wait for them."""
        account = self._account(principal)
        if account is not None and account.tokens is not None:
            account.tokens.take(tokens)

    def allowances(self, principal: Principal) -> Allowances:
        account = self._account(principal)
        if account is None:
            return Allowances()
        return Allowances(
            requests=_allowance(account.requests),
            tokens=_allowance(account.tokens),
        )

    def metered(self, outputs: AsyncGenerator[Output, None], principal: Principal) -> AsyncGenerator[Output, None]:
        """The same outputs; their tokens are charged as they come. If it is closed early, what had come counts."""
        return outputs if principal.limits.tokens_per_minute is None else self._metered(outputs, principal)

    async def _metered(
        self, outputs: AsyncGenerator[Output, None], principal: Principal
    ) -> AsyncGenerator[Output, None]:
        charged = 0
        async with aclosing(outputs):
            async for output in outputs:
                tokens = 0
                if isinstance(output, Started):
                    tokens = output.prompt_tokens or 0
                elif isinstance(output, Delta):
                    tokens = output.token_count
                elif isinstance(output, Finished):
                    tokens = max(0, output.usage.prompt_tokens + output.usage.generated_tokens - charged)
                charged += tokens
                self.charge(principal, tokens)
                yield output

    def _account(self, principal: Principal) -> _Account | None:
        """The account of a principal, up to date; None if it has no limits."""
        limits = principal.limits
        if limits.requests_per_minute is None and limits.tokens_per_minute is None and limits.parallel is None:
            return None
        account = self._accounts.get(principal.name)
        now_s = self._clock_s()
        if account is None:
            if len(self._accounts) >= _MOST_IDLE:
                self._accounts = {name: one for name, one in self._accounts.items() if not one.idle(now_s)}
            account = self._accounts[principal.name] = _Account()
        account.update(principal, now_s)
        return account


def _too_many(principal: Principal, remedy: str) -> TooManyRequests:
    text = f"{principal.name!r} may have {principal.limits.parallel} requests at once"
    return TooManyRequests(text, remedy, retry_after_s=_BUSY_RETRY_S)


def _allowance(bucket: _Bucket | None) -> Allowance | None:
    return None if bucket is None else bucket.allowance()


def _filled(bucket: _Bucket | None, limit: int | None, now_s: float) -> _Bucket | None:
    if limit is None:
        return None
    if bucket is None:
        return _Bucket(limit, now_s)
    bucket.fill(limit, now_s)
    return bucket


def _shown(wait_s: float) -> str:
    return f"{max(1, round(wait_s + 0.499))} s"

"""``corral ps`` and ``stop``: lists and unloads the models that a server has loaded."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from corral.api.cli.model_names import suggesting
from corral.api.cli.output import epoch_of, human_bytes, human_time, print_json, print_table
from corral.api.cli.parameters import LoadedModelParam
from corral.api.cli.session import Session
from corral.core.errors import ModelNotFound, NotFound
from corral.core.models.digests import short_digest

__all__ = ("ps", "stop")

_FOREVER_S = 20 * 365 * 86400


@click.command()
@click.argument("prefix", required=False, type=LoadedModelParam(checked=False))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def ps(session: Session, prefix: str | None, as_json: bool) -> None:
    """List the models that the server has loaded, or only those whose names begin with PREFIX."""
    server = session.server()
    server.require()
    models = [
        model
        for model in server.call("GET", "/api/ps")["models"]
        if model["name"].lower().startswith((prefix or "").lower())
    ]
    if as_json:
        print_json(models)
        return
    print_table(
        ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "ENGINE", "PREFIXES", "UNTIL"),
        [
            (
                model["name"],
                short_digest(model["digest"]),
                human_bytes(model["size"]) if model["size"] else "-",
                _processor(model),
                str(model.get("context_length", 0)),
                model["corral"]["engine"],
                _prefixes(model["corral"].get("prefixes", ())),
                _until(model["expires_at"]),
            )
            for model in models
        ],
    )


@click.command()
@click.argument("model", type=LoadedModelParam())
@click.pass_obj
def stop(session: Session, model: str) -> None:
    """Unload MODEL from the server once its running requests have finished."""
    server = session.server()
    server.require()
    with suggesting(model, lambda: [one["name"] for one in server.call("GET", "/api/ps")["models"]]):
        try:
            server.call("POST", "/api/generate", {"model": model, "keep_alive": 0})
        except NotFound as fault:
            raise ModelNotFound(f'couldn\'t find model "{model}" to stop', "corral ps shows what is loaded") from fault


def _processor(model: Mapping[str, Any]) -> str:
    if "remote host" in model["corral"]["details"]:
        return "Upstream"
    size, on_gpu = model["size"], model.get("size_vram", 0)
    if not size:
        return "Unknown"
    if on_gpu <= 0:
        return "100% CPU"
    if on_gpu >= size:
        return "100% GPU"
    share = round((size - on_gpu) / size * 100)
    return f"{share}%/{100 - share}% CPU/GPU"


def _prefixes(tiers: Sequence[Mapping[str, Any]]) -> str:
    """How many prefixes of prompts are kept in streams, host memory and on disk, their size, and how often they helped:
    ``1+9+20, 84 MB, 31 hits``.
    """
    if not any(tier["entries"] for tier in tiers):
        return "-"
    counts = "+".join(str(tier["entries"]) for tier in tiers)
    size = human_bytes(sum(tier["size_bytes"] for tier in tiers))
    return f"{counts}, {size}, {sum(tier['hits'] for tier in tiers)} hits"


def _until(expires_at: str) -> str:
    seconds = epoch_of(expires_at)
    if seconds - time.time() > _FOREVER_S:
        return "Forever"
    if seconds < time.time():
        return "Stopping..."
    return human_time(seconds)

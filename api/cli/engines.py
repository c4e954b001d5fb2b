"""``corral engines``: lists the engines, their tasks and devices, and what is missing to use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from corral.api.cli.output import echo, human_bytes, plain, print_json, print_table
from corral.api.cli.session import Session
from corral.core.runtime import EngineStatus, OptionHelp
from corral.core.specs.engines import Device

__all__ = ("engines",)

Found = Mapping[str, tuple[Device, ...] | str]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option("--verbose", is_flag=True, help="Also show accepted models, runners, memory of devices, and options.")
@click.option("--no-devices", is_flag=True, help="Do not start the engines to find their devices.")
@click.pass_obj
def engines(session: Session, as_json: bool, verbose: bool, no_devices: bool) -> None:
    """List the engines: versions, tasks, devices, and what is missing to use them."""
    with session.library() as corral:
        runtime = corral.runtime()
        names = [engine.name for engine in runtime.engines if engine.available]
        devices: Found = {} if no_devices else corral.call(lambda _: runtime.devices.devices(names))
    if as_json:
        print_json([plain(engine) | _plain_devices(devices.get(engine.name, ())) for engine in runtime.engines])
        return
    print_table(
        ("NAME", "AVAILABLE", "VERSION", "DEVICES", "TASKS"),
        [
            (
                engine.name,
                "yes" if engine.available else "no",
                engine.version or "-",
                _kinds(devices.get(engine.name, ())),
                ", ".join(engine.tasks),
            )
            for engine in runtime.engines
        ],
    )
    if notes := [note for engine in runtime.engines if (note := _note(engine, devices.get(engine.name, ())))]:
        echo("\n" + "\n".join(notes))
    if verbose:
        for engine in runtime.engines:
            _print_more(engine, devices.get(engine.name, ()))


def _note(engine: EngineStatus, devices: tuple[Device, ...] | str) -> str:
    """What is wrong with the engine and how to fix it; empty if nothing is."""
    if not engine.available:
        return f"{engine.name}: {engine.reason}{f'; {engine.install_hint}' if engine.install_hint else ''}"
    return f"{engine.name}: could not list its devices: {devices}" if isinstance(devices, str) else ""


def _print_more(engine: EngineStatus, devices: tuple[Device, ...] | str) -> None:
    echo(f"\n{engine.name}: {engine.summary}")
    if engine.takes:
        echo(f"    runs {engine.takes}")
    echo(f"    runs in {' or '.join(engine.runners)}")
    if isinstance(devices, tuple):
        for device in devices:
            memory = [
                f"{human_bytes(size_bytes)} {word}"
                for word, size_bytes in (("memory", device.total_bytes), ("free", device.free_bytes))
                if size_bytes is not None
            ]
            echo(f"    {device.kind}: {', '.join((device.name, *memory))}")
    _print_options(engine.load_options)


def _print_options(options: Sequence[OptionHelp]) -> None:
    """Prints an indented line for each option."""
    for option in options:
        echo(f"    {option.name} = {option.default}  ({option.kind})")


def _kinds(devices: tuple[Device, ...] | str) -> str:
    if isinstance(devices, str):
        return "?"
    return ", ".join(dict.fromkeys(device.kind for device in devices)) or "-"


def _plain_devices(devices: tuple[Device, ...] | str) -> dict[str, object]:
    """The devices as JSON fields; `devices_problem` says why they could not be listed."""
    if isinstance(devices, str):
        return {"devices": [], "devices_problem": devices}
    return {"devices": [plain(device) for device in devices], "devices_problem": None}

"""The command line of the benchmarks."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import click
from rich.console import Console

from benchmarks.cases import CASES
from benchmarks.cpu import measure_cpu
from benchmarks.exact import CONDITIONS, MODES, SETTLED, check
from benchmarks.loop import measure_loop
from benchmarks.prompts import QUESTIONS
from benchmarks.report import print_figures, print_table, write_json
from benchmarks.servers import Target
from benchmarks.socket_to_frame import measure_socket_to_frame
from benchmarks.speed import measure
from benchmarks.transfer import measure_transfer

_URL = "http://127.0.0.1:11434"
_APIS = click.Choice(["ollama", "llama-server", "openai"])
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _server_options(command: _Command) -> _Command:
    options = [
        click.option("--url", default=_URL, show_default=True, help="The server to measure."),
        click.option("--api", type=_APIS, help="Its API; detected if not given."),
        click.option("--model", help="The model to ask for; the first one listed if not given."),
        click.option("--start", metavar="CMD", help="Start the server with this command and stop it afterwards."),
        click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write everything measured here."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def main() -> None:
    """Measure model servers with the API of Ollama, OpenAI or llama-server."""


@main.command()
@_server_options
@click.option("--vs", metavar="URL", help="A second server, measured alternately with the first.")
@click.option("--vs-api", type=_APIS)
@click.option("--vs-model")
@click.option("--vs-start", metavar="CMD", help="Start the second one with this command; the two never run together.")
@click.option("--cases", default=",".join(CASES), show_default=True, help="Cases to run, separated by commas.")
@click.option("--streams", default=8, show_default=True, help="N.")
@click.option("--tokens", default=64, show_default=True, help="Tokens to generate per stream.")
@click.option("--rounds", default=1, show_default=True, help="How often; medians are shown.")
@click.option("--seed", type=int, help="Decides the prompts; a random one if not given, so that no cache has them.")
def speed(
    url: str,
    api: Any,
    model: str | None,
    start: str | None,
    json_file: Path | None,
    vs: str | None,
    vs_api: Any,
    vs_model: str | None,
    vs_start: str | None,
    cases: str,
    streams: int,
    tokens: int,
    rounds: int,
    seed: int | None,
) -> None:
    """Measure throughput, time to first token and gaps of one server, or of two alternately."""
    chosen = [case.strip() for case in cases.split(",") if case.strip()]
    if unknown := [case for case in chosen if case not in CASES]:
        raise click.BadParameter(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    targets = [Target(label="A", url=url, dialect=api, model=model, start=start)]
    if vs is not None:
        targets.append(Target(label="B", url=vs, dialect=vs_api, model=vs_model, start=vs_start))
    seed = random.randrange(1 << 20) if seed is None else seed
    measured = _run(measure(targets, chosen, streams=streams, tokens=tokens, rounds=rounds, run=seed, on_step=_step))
    console = _console()
    for target in targets:
        console.print(f"{target.label}: {target.start or target.url}", highlight=False)
    for case in chosen:
        print_figures(console, CASES[case].title, measured[case])
    asked = {"targets": targets, "streams": streams, "tokens": tokens, "seed": seed}
    _save(json_file, {"command": "speed", **asked, "cases": measured})


@main.command()
@_server_options
@click.option(
    "--conditions",
    default=",".join((*CONDITIONS, SETTLED)),
    show_default=True,
    help="Conditions to check, separated by commas.",
)
@click.option("--prompts", default=len(QUESTIONS), show_default=True, help="How many prompts.")
@click.option("--tokens", default=48, show_default=True, help="Tokens to compare.")
@click.option("--clear", metavar="CMD", help="Empties what the server keeps on disk, before each text that is alone.")
def exact(
    url: str,
    api: Any,
    model: str | None,
    start: str | None,
    json_file: Path | None,
    conditions: str,
    prompts: int,
    tokens: int,
    clear: str | None,
) -> None:
    """Check that the same request gives the same text, whatever else the server does."""
    chosen = [condition.strip() for condition in conditions.split(",") if condition.strip()]
    known = (*CONDITIONS, SETTLED)
    if unknown := [condition for condition in chosen if condition not in known]:
        raise click.BadParameter(f"no such condition: {', '.join(unknown)}; there are {', '.join(known)}")
    target = Target(label="server", url=url, dialect=api, model=model, start=start)
    outcomes = _run(
        check(target, chosen, prompts=min(prompts, len(QUESTIONS)), tokens=tokens, clear=clear, on_step=_step)
    )
    rows = [
        [condition, *(f"{one.equal} of {one.of}" for mode in MODES for one in outcomes if _is(one, mode, condition))]
        for condition in chosen
    ]
    print_table(_console(), "equal to the text alone on a fresh server", ["condition", *MODES], rows)
    _save(json_file, {"command": "exact", "target": target, "tokens": tokens, "outcomes": outcomes})


@main.command()
@_server_options
@click.option("--pid", type=int, help="The server's process, if it was not started with --start.")
@click.option("--streams", default=8, show_default=True)
@click.option("--tokens", default=1000, show_default=True, help="Tokens to generate per stream.")
@click.option("--chats", default=400, show_default=True, help="Chats to measure from socket to frame; 0 for none.")
def cpu(
    url: str,
    api: Any,
    model: str | None,
    start: str | None,
    json_file: Path | None,
    pid: int | None,
    streams: int,
    tokens: int,
    chats: int,
) -> None:
    """Processor time, of this Corral from socket to frame, and of a server per token.

    From socket to frame: what a short chat with a loaded model costs this environment's Corral until the model's
    process has it. Per token, with --start or --pid: the server, its children, and a bare ASGI application that sends
    the same lines.
    """
    socket_to_frame_us = None
    if chats:
        socket_to_frame_us = _socket_to_frame(chats)
        print_table(
            _console(), f"{chats} warm chats", ["", "CPU µs"], [["socket to frame", f"{socket_to_frame_us:.0f}"]]
        )
    if start is None and pid is None:
        _save(json_file, {"command": "cpu", "socket_to_frame_us": socket_to_frame_us})
        return
    target = Target(label="server", url=url, dialect=api, model=model, start=start)
    report = _run(measure_cpu(target, streams=streams, tokens=tokens, process_id=pid))
    rows = [
        ["parent", f"{report.parent_ms:.3f}"],
        ["children", f"{report.children_ms:.3f}"],
        ["bare ASGI application", f"{report.bare_ms:.3f}"],
        ["parent ÷ bare", f"{report.parent_ms / report.bare_ms:.2f}" if report.bare_ms else ""],
    ]
    print_table(_console(), f"{report.tokens} tokens in {report.lines} lines", ["process", "CPU ms per token"], rows)
    measured = {"target": target, "report": report, "socket_to_frame_us": socket_to_frame_us}
    _save(json_file, {"command": "cpu", **measured})


@main.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--threads", default=2, show_default=True)
@click.option("--tokens", default=256, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--llama-bench", "bench", metavar="CMD", help="llama-bench, to measure alternately with the loop.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write everything measured here.")
def loop(model: Path, threads: int, tokens: int, rounds: int, bench: str | None, json_file: Path | None) -> None:
    """Measure an engine's step loop without a server: a GGUF and llama-bench, or an ONNX folder and a bare loop."""
    try:
        report = measure_loop(model, threads=threads, tokens=tokens, rounds=rounds, bench=bench)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from error
    rows = [["step loop", f"{median(report.loop):.1f}"], ["four streams", f"{median(report.together):.1f}"]]
    rows += [["four ÷ one", f"{report.gain:.2f}"]]
    if report.ratio is not None:
        alone = "bare loop" if model.is_dir() else "llama-bench"
        rows += [[alone, f"{median(report.bench):.1f}"], [f"step loop ÷ {alone}", f"{report.ratio:.2f}"]]
    print_table(_console(), f"{threads} threads", ["", "tok/s"], rows)
    _save(json_file, {"command": "loop", "threads": threads, "tokens": tokens, "report": report})


def _is(outcome: Any, mode: str, condition: str) -> bool:
    return bool(outcome.mode == mode and outcome.condition == condition)


def _socket_to_frame(chats: int) -> float:
    try:
        return measure_socket_to_frame(chats)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from error


def _run(work: Any) -> Any:
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, with what was started here
        return asyncio.run(work)
    except (RuntimeError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _console() -> Console:
    """Wide enough for the tables, also if the output goes to a file."""
    return Console(width=max(Console().width, 110))


def _step(text: str) -> None:
    click.echo(text, err=True)


def _save(path: Path | None, results: Any) -> None:
    if path is not None:
        write_json(path, results)


@main.command()
@click.option("--gigabytes", default=5.0, show_default=True, help="How many random bytes to move.")
@click.option("--folder", type=click.Path(path_type=Path, exists=True), help="Where to put them; twice the room.")
def transfer(gigabytes: float, folder: Path | None) -> None:
    """Pull and push beside curl, from and to a local registry: speeds, their ratios, and memory."""
    found = measure_transfer(int(gigabytes * 1e9), folder)
    for name, curl_s, own_s, memory_bytes, ratio in (
        ("pull", found.curl_pull_s, found.pull_s, found.pull_memory_bytes, found.pull_ratio),
        ("push", found.curl_push_s, found.push_s, found.push_memory_bytes, found.push_ratio),
    ):
        curl, own = (found.size_bytes / seconds / 1e6 for seconds in (curl_s, own_s))
        speeds = f"{own:.0f} MB/s, curl {curl:.0f} MB/s, ratio {ratio:.2f}"
        click.echo(f"{name}: {speeds}, {memory_bytes / 1e6:.0f} MB memory")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")

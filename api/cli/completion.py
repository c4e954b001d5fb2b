"""``corral completion``: prints or installs shell completion for commands, options, models and engines."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

import click
from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from corral.api.cli.files import replace_file
from corral.api.cli.output import echo, echo_content
from corral.core.errors import StorageError

__all__ = ("completion",)

_SHELLS = ("bash", "zsh", "fish")
_COMPLETE = "_CORRAL_COMPLETE"

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' kind value
    COMPREPLY=()
    while IFS=$'\\t' read -r kind value; do
        case "$kind" in
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
            part) compopt -o nospace; COMPREPLY+=("$value") ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done < <(env CORRAL_LINE="${COMP_LINE:0:$COMP_POINT}" CORRAL_BREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
}

complete -F %(complete_func)s %(prog_name)s
"""


@add_completion_class
class _BashComplete(ShellComplete):
    """Like click's, except that a word may contain colons and equals signs, as names of models do.

    bash splits words at these characters, and replaces only the last part.
    """

    name = "bash"
    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["CORRAL_LINE"]
        words = split_arg_string(line)
        begun = bool(words) and not line[-1:].isspace()
        return words[1 : len(words) - begun], words[-1] if begun else ""

    def complete(self) -> str:
        _, incomplete = self.get_completion_args()
        option, separator, _ = incomplete.partition("=")
        self._option = option + separator if separator and option.startswith("-") else ""
        breaks = set(os.environ.get("CORRAL_BREAKS", "")) & set(":=")
        self._kept = 1 + max((incomplete.rfind(character) for character in breaks), default=-1)
        return super().complete()

    def format_completion(self, item: CompletionItem) -> str:
        kind = "part" if item.type == "plain" and item.value.endswith("=") else item.type
        return f"{kind}\t{(self._option + item.value)[self._kept :]}"


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS), required=False)
@click.option("--install", is_flag=True, help="Set up completion for every new shell.")
def completion(shell: str | None, install: bool) -> None:
    """Print a completion script for SHELL, or install it with --install.

    SHELL is bash (4.4 or newer), zsh or fish; the default is taken from $SHELL. It completes commands, options, models,
    engines, converters and settings.
    """
    shell = shell or _own_shell(os.environ)
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(click.get_current_context().find_root().command, {}, "corral", _COMPLETE).source()
    if not install:
        echo_content(script)
        return
    for line in _install(shell, script, os.environ):
        echo(line)


def _own_shell(environment: Mapping[str, str]) -> str:
    name = os.path.basename(environment.get("SHELL", ""))
    if name not in _SHELLS:
        raise click.UsageError(f"$SHELL is {name or 'not set'}: name the shell ({', '.join(_SHELLS)})")
    return name


def _install(shell: str, script: str, environment: Mapping[str, str]) -> list[str]:
    """Writes the script to where the shell finds it, and returns lines that say what was done. Can be repeated."""
    home = Path(environment.get("HOME") or Path.home())
    if shell == "fish":
        folder = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "fish" / "completions"
        _write(folder / "corral.fish", script)
        return [f"wrote {folder / 'corral.fish'}", "completion works in new fish shells"]
    file = Path(environment.get("XDG_DATA_HOME") or home / ".local" / "share") / "corral" / f"completion.{shell}"
    start = home / ".bashrc" if shell == "bash" else Path(environment.get("ZDOTDIR") or home) / ".zshrc"
    _write(file, script)
    done = [f"wrote {file}"]
    line = f"[ ! -r {shlex.quote(str(file))} ] || . {shlex.quote(str(file))}"
    if shell == "zsh":
        line = f"(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit }}; {line}"
    try:
        text = start.read_text(encoding="utf-8", errors="surrogateescape") if start.exists() else ""
        if line not in text.splitlines():
            with start.open("a", encoding="utf-8") as lines:
                gap = "\n" if text and not text.endswith("\n") else ""
                lines.write(f"{gap}# Shell completion for corral.\n{line}\n")
            done.append(f"added a line to {start}")
    except OSError as fault:
        raise StorageError(f"cannot add a line to {start}: {fault}", f"add it yourself: {line}") from fault
    return [*done, f"completion works in new {shell} shells; to use it in this one: . {file}"]


def _write(file: Path, script: str) -> None:
    try:
        replace_file(file, script.encode())
    except OSError as fault:
        raise StorageError(f"cannot write {file}: {fault}") from fault

"""The types of command-line values: each is checked when arguments are parsed, and provides its shell completions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click
from click.shell_completion import CompletionItem

from corral.api.cli.session import Session
from corral.core.errors import CorralError, InvalidOption, SettingsError
from corral.core.go.durations import parse_keep_alive_setting_s
from corral.core.models.capabilities import CAPABILITIES
from corral.core.models.names import parse_name
from corral.core.requests.options import OPTIONS, parse_options, parse_parameter
from corral.core.wording.left_out import remarks
from corral.core.wording.suggestions import did_you_mean
from corral.plugins.assembly import CONVERTERS, HookKind, parse_assignment

__all__ = (
    "AnswerFormat",
    "AnyModel",
    "Assignment",
    "Capability",
    "Checked",
    "KeepAliveParam",
    "LoadedModelParam",
    "ModelText",
    "NewName",
    "OptionAssignment",
    "ParameterAssignment",
    "Registered",
    "SettingAssignment",
    "SettingsFile",
    "wrong_value",
    "wrong_value_of",
)

T = TypeVar("T")

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # generic only in newer versions of click
    _ParamType = click.ParamType


@contextmanager
def wrong_value_of(option: str, *kinds: type[CorralError]) -> Iterator[None]:
    """Turns errors of these kinds into usage errors about `option`."""
    try:
        yield
    except kinds as fault:
        raise wrong_value(option, fault) from fault


def wrong_value(option: str | None, fault: CorralError) -> click.BadParameter:
    """A usage error with the text of `fault`, about `option`, or about whatever the message itself names."""
    return click.BadParameter(_text(fault), param_hint=option and f"'{option}'")


def _text(fault: CorralError) -> str:
    return f"{fault.message}\n{fault.remedy}" if fault.remedy else fault.message


class Checked(_ParamType, Generic[T]):
    """A value that `read` parses; it raises a `CorralError` if the value is invalid."""

    name = "text"

    def read(self, text: str, context: click.Context | None) -> T:
        raise NotImplementedError

    def words(self, session: Session, context: click.Context) -> Iterable[str]:
        """The words to complete. If this raises an error, nothing is completed."""
        return ()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.read(value, ctx)
        except CorralError as fault:
            self.fail(_text(fault), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        session = ctx.find_object(Session)
        if session is None:
            return []
        try:
            found = sorted(self.words(session, ctx))
        except Exception:  # completion cannot show a missing store, invalid settings or a plugin's error
            return []
        return [CompletionItem(word) for word in found if word.lower().startswith(incomplete.lower())]


class ModelText(Checked[str]):
    """A model's name, as typed. With `checked` False, it may also be only the beginning of one."""

    def __init__(self, *, checked: bool = True) -> None:
        self._checked = checked

    def read(self, text: str, context: click.Context | None) -> str:
        if self._checked:
            parse_name(text)
        return text

    def words(self, session: Session, context: click.Context) -> Iterable[str]:
        return session.model_names()


class NewName(ModelText):
    """The name for a new model: existing names are not offered as completions."""

    def words(self, session: Session, context: click.Context) -> Iterable[str]:
        return ()


class AnyModel(ModelText):
    """What `corral run` accepts: a name, the beginning of one, a reference, or a path. `run` checks which it is."""

    def __init__(self) -> None:
        super().__init__(checked=False)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = super().shell_complete(ctx, param, incomplete)
        return found or [CompletionItem(incomplete, type="file")]


class LoadedModelParam(ModelText):
    """The name of a model that the server has loaded."""

    def words(self, session: Session, context: click.Context) -> Iterable[str]:
        return [model["name"] for model in session.server(timeout_s=1).call("GET", "/api/ps")["models"]]


class Registered(Checked[str]):
    """The name of something that plugins register: an engine, a converter or a runner."""

    def __init__(self, kind: HookKind[Any]) -> None:
        self._kind = kind

    def read(self, text: str, context: click.Context | None) -> str:
        session = context.find_object(Session) if context is not None else None
        if session is None or text in (known := self._known(session)):
            return text
        listed = f"choose one of {', '.join(known) or 'none'}"
        sentences = (did_you_mean(text, known, listed), *remarks(session.manager.left_out, text))
        raise InvalidOption(f"there is no {self._kind.noun} {text!r}", "; ".join(sentences))

    def words(self, session: Session, context: click.Context) -> Iterable[str]:
        return self._known(session)

    def _known(self, session: Session) -> list[str]:
        return [spec.name for spec in session.manager.specs(self._kind)]


class Capability(Checked[str]):
    """A capability that Corral knows."""

    def read(self, text: str, context: click.Context | None) -> str:
        if text not in CAPABILITIES:
            listed = f"choose one of {', '.join(CAPABILITIES)}"
            raise InvalidOption(f"there is no capability {text!r}", did_you_mean(text, CAPABILITIES, listed))
        return text

    def words(self, session: Session, context: click.Context) -> Iterable[str]:
        return CAPABILITIES


class KeepAliveParam(Checked[float]):
    """A duration in seconds; -1 means no limit."""

    name = "duration"

    def read(self, text: str, context: click.Context | None) -> float:
        seconds = parse_keep_alive_setting_s(text)
        return -1 if seconds is None else seconds


class AnswerFormat(Checked[object]):
    """``json``, or the name of a file with a JSON Schema."""

    def read(self, text: str, context: click.Context | None) -> object:
        if text == "json":
            return text
        try:
            schema: object = json.loads(Path(text).read_bytes())
        except (OSError, ValueError, RecursionError) as fault:
            remedy = "give json, or the name of a file that contains a JSON Schema"
            raise InvalidOption(f"{text}: {fault}", remedy) from fault
        if not isinstance(schema, dict):
            raise InvalidOption(f"{text}: a JSON Schema must be an object")
        return schema

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if incomplete and "json".startswith(incomplete):
            return [CompletionItem("json")]
        return [CompletionItem(incomplete, type="file")]


class Assignment(Checked[tuple[str, str]]):
    """``NAME=VALUE``."""

    what = "value"
    example = "NAME=VALUE"

    def read(self, text: str, context: click.Context | None) -> tuple[str, str]:
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise InvalidOption(f"the {self.what} {text!r} is not NAME=VALUE", f"for example {self.example}")
        return name.strip(), value


class OptionAssignment(Assignment):
    """A request option. Its value is only checked here; it is parsed later, since repeating an option makes a list."""

    what = "option"
    example = "-o temperature=0.2"

    def read(self, text: str, context: click.Context | None) -> tuple[str, str]:
        name, value = super().read(text, context)
        parse_options({name: parse_parameter(name, [value])})
        return name, value

    def words(self, session: Session, context: click.Context) -> Iterable[str]:
        return [f"{name}=" for name in OPTIONS]


class ParameterAssignment(Assignment):
    """A parameter of the converter that ``--to`` names."""

    what = "parameter"
    example = "-p bits=8"

    def words(self, session: Session, context: click.Context) -> Iterable[str]:
        wanted = context.params.get("to")
        kinds = [spec.parameters for spec in session.manager.specs(CONVERTERS) if wanted in (None, spec.name)]
        return [f"{field}=" for kind in kinds if kind is not None for field in kind.__struct_encode_fields__]


class SettingsFile(Checked[str]):
    """An existing file; an empty name stands for no file."""

    name = "file"

    def read(self, text: str, context: click.Context | None) -> str:
        if text and not Path(text).expanduser().exists():
            raise SettingsError(f"there is no settings file {text!r}")
        return text

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


class SettingAssignment(Checked[str]):
    """``PATH=VALUE`` of a setting, as typed."""

    def read(self, text: str, context: click.Context | None) -> str:
        parse_assignment(text)
        return text

    def words(self, session: Session, context: click.Context) -> Iterable[str]:
        return [f"{row.path}=" for row in session.settings.origins]

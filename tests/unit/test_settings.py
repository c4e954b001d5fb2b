"""Settings come in layers, are decoded by the Structs of their owners, and their errors name the path."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from corral.core.errors import InvalidOption, SettingsError
from corral.core.scheduling.load_options import YieldingOption
from corral.plugins.settings.environment import read_environment
from corral.plugins.settings.reading import parse_assignment, read_layers
from corral.plugins.settings.schema import Settings
from corral.plugins.settings.types import Address, Duration


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    num_ctx: int = 4096
    num_parallel: int | None = None
    flash_attention: bool | None = None


class CacheOptions(msgspec.Struct, frozen=True, kw_only=True):
    kv_cache_type: Literal["f16", "q8_0"] = "f16"


class TiedOptions(msgspec.Struct, frozen=True, kw_only=True):
    num_ctx: int = 4096
    flash_attention: bool | None = None
    kv_cache_type: Literal["f16", "q4_0", "q8_0"] = "f16"

    def __post_init__(self) -> None:
        if self.flash_attention is False and self.kv_cache_type != "f16":
            raise InvalidOption(f"kv_cache_type {self.kv_cache_type}, but flash_attention is false", "use f16")


class RowOptions(msgspec.Struct, frozen=True, kw_only=True):
    num_ctx: int = 4096
    flash_attention: bool | None = None
    kv_cache_type: Literal["f16", "f32", "q8_0"] = "f16"
    row_attention: bool = False

    def __post_init__(self) -> None:
        if self.row_attention and self.flash_attention is False:
            raise InvalidOption("row_attention needs flash attention")
        if self.row_attention and self.kv_cache_type == "f32":
            raise InvalidOption("row_attention needs 16 bits")


class PairedOptions(msgspec.Struct, frozen=True, kw_only=True):
    pages: int
    num_ctx: int = 4096

    def __post_init__(self) -> None:
        if self.pages * 512 != self.num_ctx:
            raise InvalidOption("num_ctx is no multiple of pages")


class StoreOptions(msgspec.Struct, frozen=True, kw_only=True):
    root: str = "~/.ollama/models"


def decode(
    text: str = "",
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] = {},
    flags: Mapping[str, Any] = {},
    complete: bool = True,
    options: type[msgspec.Struct] | None = None,
) -> Settings:
    path = ""
    if folder is not None:
        file = folder / "config.toml"
        file.write_text(text)
        path = str(file)
    layers = read_layers(path, environment=environment, flags=flags)
    return layers.decode(
        {
            "engines": {"llama-cpp": EngineOptions, "cached": CacheOptions, "plain": None}
            if options is None
            else {"llama-cpp": options},
            "converters": {},
            "runners": {},
            "stores": {"filesystem": StoreOptions},
            "sources": {},
        },
        complete=complete,
    )


def origin_of(settings: Settings, path: str) -> tuple[Any, str]:
    row = next(row for row in settings.origins if row.path == path)
    return row.value, row.origin


def test_defaults() -> None:
    """The defaults are Ollama's address and keep-alive, and the filesystem store."""
    settings = decode()
    assert settings.server.host.url == "http://127.0.0.1:11434"
    assert settings.scheduler.keep_alive.keep_alive_s == 300
    assert settings.store == "filesystem"
    assert settings.parts["stores"]["filesystem"] == StoreOptions()
    assert settings.engines == {}
    assert origin_of(settings, "scheduler.keep_alive") == ("5m", "default")


def test_layers_win_in_order(tmp_path: Path) -> None:
    """Flags override the environment, CORRAL_ overrides OLLAMA_, the environment overrides the file; each origin is
    known."""
    text = '[scheduler]\nmax_queue = 1\nkeep_alive = "1m"\n[server]\nhost = "a:1"\norigins = ["http://x"]\n'
    environment = {"OLLAMA_MAX_QUEUE": "2", "CORRAL_MAX_QUEUE": "3", "OLLAMA_HOST": "b:2"}
    settings = decode(text, folder=tmp_path, environment=environment, flags={"server.host": "c:3"})
    assert origin_of(settings, "scheduler.max_queue") == (3, "CORRAL_MAX_QUEUE")
    assert origin_of(settings, "server.host") == ("c:3", "flag")
    assert origin_of(settings, "scheduler.keep_alive") == ("1m", str(tmp_path / "config.toml"))
    assert settings.server.origins == ("http://x",)


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("[engines.llama-cpp]\nnum_prallel = 2", "unknown setting engines.llama-cpp.num_prallel", "num_parallel"),
        ("[engines.lama-cpp]\nnum_ctx = 2", "unknown setting engines.lama-cpp", "did you mean engines.llama-cpp?"),
        ("[sheduler]\nmax_queue = 2", "unknown setting sheduler", "did you mean scheduler?"),
        ("[scheduler]\nqueue_max_length_of_all = 2", "unknown setting scheduler.queue_max_length_of_all", "there are"),
        ("[engines.plain]\nnum_ctx = 2", "unknown setting engines.plain.num_ctx", "this section has none"),
        ('[engines.llama-cpp]\nnum_ctx = "2"', "engines.llama-cpp.num_ctx: Expected `int`, got `str` '2'", "a number"),
        (
            '[engines.llama-cpp]\nflash_attention = "yes"',
            "engines.llama-cpp.flash_attention: Expected `bool | null`, got `str` 'yes'",
            "write true or false, without quotes",
        ),
        ('[server]\norigins = "a"', "server.origins: Expected `array`, got `str` 'a'", "write a list"),
        ("[cli]\napi_key = 5", "cli.api_key: Expected `str`, got `int`", None),
        ("[stores.filesystem]\nroot = 2", "stores.filesystem.root: Expected `str`, got `int`", None),
        ('[scheduler]\nkeep_alive = "soon"', "scheduler.keep_alive: time: invalid duration", None),
        ("[scheduler]\nkeep_alive = true", "scheduler.keep_alive: a duration must be", None),
        ("[scheduler]\nmax_queue = -1", "scheduler.max_queue: Expected `int` >= 1, got -1", None),
        ('[server]\norigins = ["a", 2]', "server.origins[1]: Expected `str`, got `int`", None),
        ("[server]\nhost = 11434", "server.host: an address must be", None),
        ('[log]\nlevel = "loud"', "log.level: Invalid enum value 'loud'", "choose one of trace, debug"),
        ('[models."a:b"]\nengin = "x"', 'unknown setting models."a:b".engin', "engine"),
        ("scheduler = 3", "scheduler: Expected a table", None),
        ("store = 3", "store: Expected `str`", None),
        ("a = ", "cannot read the settings file", None),
    ],
)
def test_mistakes_name_their_path(tmp_path: Path, text: str, message: str, remedy: str | None) -> None:
    """An unknown key or mistyped value is a `SettingsError` with the path, and the closest name if there is one."""
    with pytest.raises(SettingsError) as caught:
        decode(text, folder=tmp_path)
    assert message in caught.value.message
    assert remedy is None or remedy in (caught.value.remedy or "")
    if message.startswith("unknown setting"):
        assert f"it was set by {tmp_path / 'config.toml'}; " in (caught.value.remedy or "")


def test_a_section_of_a_plugin_that_was_not_loaded_is_passed_over(tmp_path: Path) -> None:
    """If a plugin is blocked or broken, its sections must not stop the rest."""
    settings = decode("[engines.other]\nspeed = 2\n", folder=tmp_path, complete=False)
    assert settings.engines == {}


def test_an_engine_variable_reaches_every_engine_that_has_the_option() -> None:
    """OLLAMA_CONTEXT_LENGTH and similar variables set the option of engines that have it, and nothing else."""
    settings = decode(environment={"OLLAMA_CONTEXT_LENGTH": "8192", "OLLAMA_KV_CACHE_TYPE": "q8_0"})
    assert settings.engines == {"llama-cpp": {"num_ctx": 8192}, "cached": {"kv_cache_type": "q8_0"}}
    assert origin_of(settings, "engines.llama-cpp.num_ctx") == (8192, "OLLAMA_CONTEXT_LENGTH")


def test_settings_of_one_model(tmp_path: Path) -> None:
    """A model's own section keeps its options as they were written."""
    settings = decode('[models."a:b"]\nengine = "plain"\noptions = { num_ctx = 5, stop = ["x"] }\n', folder=tmp_path)
    assert settings.models["a:b"].engine == "plain"
    assert settings.models["a:b"].options == {"num_ctx": 5, "stop": ["x"]}


@pytest.mark.parametrize("path", ['models."a.1:b".engine', "models.a:b.engine"])
def test_the_path_of_a_flag_may_have_quotes(path: str) -> None:
    """Quotes work as in the file, so that a name may contain dots; without quotes, dots separate the parts."""
    [name] = decode(flags={path: "plain"}).models
    assert name == path.removeprefix("models.").removesuffix(".engine").strip('"')


def test_the_file_of_a_flag_must_exist(tmp_path: Path) -> None:
    """The user's own file may be missing; one that was given explicitly may not."""
    with pytest.raises(SettingsError, match="no settings file"):
        read_layers(str(tmp_path / "absent.toml"))
    with pytest.raises(SettingsError, match="no settings file"):
        read_layers(environment={"CORRAL_CONFIG": str(tmp_path / "absent.toml")})
    read_layers(environment={"XDG_CONFIG_HOME": str(tmp_path)})


def test_the_users_own_file_is_found(tmp_path: Path) -> None:
    """``$XDG_CONFIG_HOME/corral/config.toml`` is read unless another file is named."""
    (tmp_path / "corral").mkdir()
    (tmp_path / "corral" / "config.toml").write_text('store = "memory"')
    assert read_layers(environment={"XDG_CONFIG_HOME": str(tmp_path)}).decode().store == "memory"


def test_a_home_that_is_no_folder_has_no_settings_file() -> None:
    """Users of services have homes such as ``/dev/null``."""
    read_layers(environment={"XDG_CONFIG_HOME": f"{__file__}/config"})


def test_plugin_lists_are_known_before_any_plugin() -> None:
    """Phase one needs no specs, even if the rest names engines."""
    layers = read_layers("", environment={"CORRAL_PLUGINS": "a, b", "CORRAL_PLUGINS_DISABLED": "c"})
    assert layers.plugins().allow == ("a", "b")
    assert layers.plugins().block == ("c",)


@pytest.mark.parametrize(
    ("variable", "text", "path", "value"),
    [
        ("OLLAMA_HOST", ' "0.0.0.0" ', ("server", "host"), "0.0.0.0"),
        ("OLLAMA_MODELS", "'/m'", ("stores", "filesystem", "root"), "/m"),
        ("OLLAMA_ORIGINS", "http://a, http://b,", ("server", "origins"), ["http://a", "http://b"]),
        ("OLLAMA_KEEP_ALIVE", "300", ("scheduler", "keep_alive"), "300"),
        ("OLLAMA_KEEP_ALIVE", "-1", ("scheduler", "keep_alive"), "-1"),
        ("OLLAMA_LOAD_TIMEOUT", "10m", ("scheduler", "load_timeout"), "10m"),
        ("OLLAMA_MAX_LOADED_MODELS", "2", ("scheduler", "max_loaded_models"), 2),
        ("OLLAMA_MAX_QUEUE", "7", ("scheduler", "max_queue"), 7),
        ("OLLAMA_NUM_PARALLEL", "4", ("engines", "*", "num_parallel"), 4),
        ("OLLAMA_FLASH_ATTENTION", "T", ("engines", "*", "flash_attention"), True),
        ("OLLAMA_FLASH_ATTENTION", "false", ("engines", "*", "flash_attention"), False),
        ("OLLAMA_FLASH_ATTENTION", "oui", ("engines", "*", "flash_attention"), True),
        ("OLLAMA_KV_CACHE_TYPE", "q8_0", ("engines", "*", "kv_cache_type"), "q8_0"),
        ("OLLAMA_DEBUG", "1", ("log", "level"), "debug"),
        ("OLLAMA_DEBUG", "2", ("log", "level"), "trace"),
        ("OLLAMA_DEBUG", "true", ("log", "level"), "debug"),
        ("OLLAMA_NOHISTORY", "1", ("cli", "history"), False),
    ],
)
def test_ollamas_variables(variable: str, text: str, path: tuple[str, ...], value: object) -> None:
    """Every Ollama variable that has a meaning here is read by Ollama's rules."""
    assert read_environment({variable: text})[path].value == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [("OLLAMA_DEBUG", "0"), ("OLLAMA_DEBUG", "f"), ("OLLAMA_CONTEXT_LENGTH", "0"), ("OLLAMA_NUM_PARALLEL", "0")],
)
def test_a_variable_that_leaves_it_open(variable: str, text: str) -> None:
    """0 means unset in these variables of Ollama: the file's value stays."""
    assert read_environment({variable: text}) == {}


def test_an_unreadable_variable(caplog: pytest.LogCaptureFixture) -> None:
    """Ollama's own are ignored with a warning; ours are refused by name."""
    with caplog.at_level(logging.WARNING):
        assert read_environment({"OLLAMA_MAX_QUEUE": "many"}) == {}
    assert "OLLAMA_MAX_QUEUE='many' is ignored" in caplog.text
    with pytest.raises(SettingsError, match="CORRAL_MAX_QUEUE='many'"):
        read_environment({"CORRAL_MAX_QUEUE": "many"})
    assert read_environment({"CORRAL_MAX_QUEUE": " "}) == {}


@pytest.mark.parametrize(
    ("variable", "text", "path", "expected"),
    [
        ("OLLAMA_KV_CACHE_TYPE", "q9", "engines.cached.kv_cache_type", "q8_0"),
        ("OLLAMA_MAX_QUEUE", "0", "scheduler.max_queue", 7),
        ("OLLAMA_MAX_QUEUE", "-1", "scheduler.max_queue", 7),
        ("OLLAMA_MAX_LOADED_MODELS", "two", "scheduler.max_loaded_models", 2),
        ("OLLAMA_NUM_PARALLEL", "1.5", "engines.llama-cpp.num_parallel", 3),
        ("OLLAMA_CONTEXT_LENGTH", "4k", "engines.llama-cpp.num_ctx", 512),
        ("OLLAMA_KEEP_ALIVE", "soon", "scheduler.keep_alive", "9m"),
        ("OLLAMA_LOAD_TIMEOUT", "soon", "scheduler.load_timeout", "8m"),
        ("OLLAMA_HOST", "ftp://x", "server.host", "b:2"),
        ("OLLAMA_HOST", "two words", "server.host", "b:2"),
        ("OLLAMA_HOST", "unix:", "server.host", "b:2"),
    ],
)
def test_a_wrong_value_of_ollamas_leaves_what_the_file_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, variable: str, text: str, path: str, expected: object
) -> None:
    """An invalid value in Ollama's variable is ignored with one warning; in ours it is an error."""
    file = """
        server.host = "b:2"
        [scheduler]
        max_queue = 7
        max_loaded_models = 2
        keep_alive = "9m"
        load_timeout = "8m"
        [engines.llama-cpp]
        num_ctx = 512
        num_parallel = 3
        [engines.cached]
        kv_cache_type = "q8_0"
        """
    with caplog.at_level(logging.WARNING):
        settings = decode(file, folder=tmp_path, environment={variable: text})
    assert origin_of(settings, path) == (expected, str(tmp_path / "config.toml"))
    [warning] = caplog.messages
    assert warning.startswith(f"{variable}=")
    assert " is ignored: " in warning
    with pytest.raises(SettingsError):
        decode(file, folder=tmp_path, environment={variable.replace("OLLAMA_", "CORRAL_"): text})


def test_ollamas_cache_type_is_read_in_any_case() -> None:
    """Ollama lowers it first."""
    settings = decode(environment={"OLLAMA_KV_CACHE_TYPE": "Q8_0"})
    assert origin_of(settings, "engines.cached.kv_cache_type") == ("q8_0", "OLLAMA_KV_CACHE_TYPE")


def test_choices_are_read_in_any_case(tmp_path: Path) -> None:
    """Wherever they are set."""
    settings = decode('[log]\nlevel = "Debug"', folder=tmp_path, environment={"CORRAL_KV_CACHE_TYPE": "Q8_0"})
    assert settings.log.level == "debug"
    assert origin_of(settings, "engines.cached.kv_cache_type") == ("q8_0", "CORRAL_KV_CACHE_TYPE")


@pytest.mark.parametrize(
    ("file", "environment", "options", "ignored"),
    [
        ("", {"OLLAMA_FLASH_ATTENTION": "0", "OLLAMA_KV_CACHE_TYPE": "q8_0"}, (False, "f16"), "OLLAMA_KV_CACHE_TYPE"),
        ("", {"CORRAL_FLASH_ATTENTION": "0", "OLLAMA_KV_CACHE_TYPE": "q8_0"}, (False, "f16"), "OLLAMA_KV_CACHE_TYPE"),
        ("", {"OLLAMA_FLASH_ATTENTION": "0", "CORRAL_KV_CACHE_TYPE": "q8_0"}, (None, "q8_0"), "OLLAMA_FLASH_ATTENTION"),
        ("flash_attention = false", {"OLLAMA_KV_CACHE_TYPE": "q8_0"}, (False, "f16"), "OLLAMA_KV_CACHE_TYPE"),
        ("kv_cache_type = 'q4_0'", {"OLLAMA_FLASH_ATTENTION": "0"}, (None, "q4_0"), "OLLAMA_FLASH_ATTENTION"),
        ("", {"OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_KV_CACHE_TYPE": "q8_0"}, (True, "q8_0"), None),
        ("", {"OLLAMA_FLASH_ATTENTION": "0", "OLLAMA_KV_CACHE_TYPE": "f16"}, (False, "f16"), None),
    ],
)
def test_ollamas_variables_give_way_to_what_excludes_them(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    file: str,
    environment: Mapping[str, str],
    options: tuple[bool | None, str],
    ignored: str | None,
) -> None:
    """As in Ollama, a type of the KV cache that needs flash attention is ignored without it, with one warning; Corral's
    own settings stay as they are."""
    text = f"[engines.llama-cpp]\nnum_ctx = 5\n{file}"
    with caplog.at_level(logging.WARNING):
        settings = decode(text, folder=tmp_path, environment=environment, options=TiedOptions)
    decoded = msgspec.convert(settings.engines["llama-cpp"], TiedOptions)
    assert (decoded.flash_attention, decoded.kv_cache_type, decoded.num_ctx) == (*options, 5)
    if ignored is None:
        assert caplog.messages == []
        return
    [warning] = caplog.messages
    assert warning.startswith(f"{ignored}=")
    assert " is ignored: kv_cache_type " in warning


@pytest.mark.parametrize(
    ("environment", "options", "ignored"),
    [
        (
            {"OLLAMA_FLASH_ATTENTION": "0", "OLLAMA_KV_CACHE_TYPE": "f32"},
            {},
            {
                "OLLAMA_KV_CACHE_TYPE='f32' is ignored: row_attention needs 16 bits",
                "OLLAMA_FLASH_ATTENTION=False is ignored: row_attention needs flash attention",
            },
        ),
        (
            {"OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_KV_CACHE_TYPE": "f32"},
            {"flash_attention": True},
            {"OLLAMA_KV_CACHE_TYPE='f32' is ignored: row_attention needs 16 bits"},
        ),
        (
            {"OLLAMA_FLASH_ATTENTION": "0", "OLLAMA_KV_CACHE_TYPE": "q8_0"},
            {"kv_cache_type": "q8_0"},
            {"OLLAMA_FLASH_ATTENTION=False is ignored: row_attention needs flash attention"},
        ),
    ],
)
def test_as_few_of_ollamas_variables_as_possible_give_way(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    environment: Mapping[str, str],
    options: Mapping[str, Any],
    ignored: set[str],
) -> None:
    """All that a section excludes, each with its own reason, and no other."""
    text = "[engines.llama-cpp]\nrow_attention = true"
    environment = {**environment, "OLLAMA_CONTEXT_LENGTH": "7"}
    with caplog.at_level(logging.WARNING):
        settings = decode(text, folder=tmp_path, environment=environment, options=RowOptions)
    assert settings.engines["llama-cpp"] == {"row_attention": True, "num_ctx": 7, **options}
    assert set(caplog.messages) == ignored


def test_what_a_variable_uncovers_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A variable whose value hides one of the file that is excluded as well stays."""
    text = "[engines.llama-cpp]\nkv_cache_type = 'q4_0'"
    environment = {"OLLAMA_FLASH_ATTENTION": "0", "OLLAMA_KV_CACHE_TYPE": "q8_0"}
    with caplog.at_level(logging.WARNING):
        settings = decode(text, folder=tmp_path, environment=environment, options=TiedOptions)
    assert settings.engines["llama-cpp"] == {"kv_cache_type": "q8_0"}
    [warning] = caplog.messages
    assert warning.startswith("OLLAMA_FLASH_ATTENTION=False is ignored: ")


@pytest.mark.parametrize(("pages", "num_ctx"), [(2, 1024), (8, 4096)])
def test_options_that_are_valid_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pages: int, num_ctx: int
) -> None:
    """A variable whose value is only valid with what the file says counts; if it is not even then, it gives way."""
    text = f"[engines.llama-cpp]\npages = {pages}"
    with caplog.at_level(logging.WARNING):
        settings = decode(text, folder=tmp_path, environment={"OLLAMA_CONTEXT_LENGTH": "1024"}, options=PairedOptions)
    assert msgspec.convert(settings.engines["llama-cpp"], PairedOptions) == PairedOptions(pages=pages, num_ctx=num_ctx)
    assert len(caplog.messages) == (num_ctx == 4096)


def test_what_gives_way_to_a_request(tmp_path: Path) -> None:
    """The options that Ollama's variables set are known, with what the file says; not those that are set otherwise."""
    text = "[engines.llama-cpp]\nkv_cache_type = 'q4_0'\nflash_attention = true"
    environment = {"OLLAMA_KV_CACHE_TYPE": "q8_0", "CORRAL_FLASH_ATTENTION": "1", "OLLAMA_CONTEXT_LENGTH": "7"}
    settings = decode(text, folder=tmp_path, environment=environment, options=TiedOptions)
    assert settings.yielding == {
        "llama-cpp": {
            "num_ctx": YieldingOption(variable="OLLAMA_CONTEXT_LENGTH"),
            "kv_cache_type": YieldingOption(variable="OLLAMA_KV_CACHE_TYPE", instead="q4_0"),
        }
    }


def test_settings_that_contradict_each_other(tmp_path: Path) -> None:
    """Those of Corral are refused, with where both were set and the remedy."""
    text = "[engines.llama-cpp]\nkv_cache_type = 'q8_0'\nnum_ctx = 5"
    with pytest.raises(SettingsError) as caught:
        decode(text, folder=tmp_path, environment={"CORRAL_FLASH_ATTENTION": "0"}, options=TiedOptions)
    assert caught.value.message == "engines.llama-cpp: kv_cache_type q8_0, but flash_attention is false"
    assert caught.value.remedy == f"it was set by {tmp_path / 'config.toml'} and CORRAL_FLASH_ATTENTION; use f16"


def test_a_wrong_value_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    """Settings are decoded more than once when a server starts, but the warning is given once."""
    layers = read_layers("", environment={"OLLAMA_MAX_QUEUE": "0"})
    with caplog.at_level(logging.WARNING):
        layers.decode()
        layers.decode()
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:99", "http://1.2.3.4:99"),
        (":99", "http://127.0.0.1:99"),
        ("http://h", "http://h:80"),
        ("https://h", "https://h:443"),
        ("https://h:8443/api/", "https://h:8443/api"),
        ("h:notaport", "http://h:11434"),
        ("h:70000", "http://h:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:99", "http://[::1]:99"),
        ("::1", "http://[::1]:11434"),
        ("ollama.com", "https://ollama.com:443"),
        ("unix:/run/c.sock", "unix:/run/c.sock"),
        ("unix:///run/c.sock", "unix:/run/c.sock"),
    ],
)
def test_addresses_are_read_as_ollama_does(text: str, url: str) -> None:
    """Scheme, default ports, IPv6 and bad ports are Ollama's; a socket path is ours."""
    assert Address(text).url == url


def test_durations() -> None:
    """Seconds and Go durations are accepted; a negative keep-alive means forever, a limit of 0 means none."""
    assert Duration("300").seconds == 300
    assert Duration(1.5).seconds == 1.5
    assert Duration("1h30m").seconds == 5400
    assert Duration("-1").keep_alive_s is None
    assert Duration("0").keep_alive_s == 0
    assert Duration("0").limit_s == float("inf")


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("engines.llama-cpp.num_ctx=8192", "engines.llama-cpp.num_ctx", 8192),
        ("server.origins=['a']", "server.origins", ["a"]),
        ("scheduler.keep_alive=10m", "scheduler.keep_alive", "10m"),
        ("engines.llama-cpp.exact=True", "engines.llama-cpp.exact", True),
    ],
)
def test_assignments(text: str, path: str, value: object) -> None:
    """A ``--set`` value is TOML if it is valid TOML, otherwise a truth value in another case, or text."""
    assert parse_assignment(text) == (path, value)


def test_an_assignment_needs_a_path() -> None:
    """What is not PATH=VALUE is refused with an example."""
    with pytest.raises(SettingsError, match="not PATH=VALUE"):
        parse_assignment("num_ctx")


def test_every_engine_is_no_table_of_its_own() -> None:
    """A star without an option behind it is an unknown setting like any other."""
    with pytest.raises(SettingsError, match=r'unknown setting engines\."\*"'):
        decode(flags={"engines.*": 1})

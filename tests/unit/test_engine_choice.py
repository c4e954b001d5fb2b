"""Which engine is chosen, and what the error says if there is none."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from corral.adapters.engines.ctransformers.spec import SPEC as CTRANSFORMERS
from corral.adapters.engines.llama_cpp.spec import SPEC as LLAMA_CPP
from corral.adapters.engines.onnx_genai.spec import SPEC as ONNX_GENAI
from corral.adapters.system.installed_packages import InstalledPackages
from corral.core.errors import EngineNotInstalled, InvalidOption, NoEngine, PluginError, UnknownEngine
from corral.core.models.digests import digest_of
from corral.core.models.model import Model, ModelFile, ModelMetadata, StoredModel
from corral.core.models.names import parse_name
from corral.core.scheduling.engine_choice import EngineChooser
from corral.core.scheduling.load_options import YieldingOption
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import Derivation, EngineSpec, Match
from corral.core.wording.pip_lines import pip_line
from corral.plugins import builtin
from corral.plugins.assembly import engine_chooser
from corral.plugins.hooks import ENGINES
from corral.plugins.loading import decode_settings
from corral.plugins.manager import PluginManager
from corral.plugins.settings.reading import read_layers

ABSENT = "corral_no_such_module"


def engine(name: str, score: int = 100, *, converter: str | None = None, **fields: Any) -> EngineSpec:
    def match(*_: Any) -> Match:
        derive = None if converter is None else Derivation(converter=converter)
        return Match(score=score, reason=f"{name} says {score}", derive=derive)

    return EngineSpec(
        **{
            "name": name,
            "summary": "",
            "form": "step",
            "load": "nowhere:load",
            "match": match,
            "estimate": lambda record, metadata, options: {},
            "install_hint": f"pip install 'corral[{name}]'",
            **fields,
        }
    )


def choosing(specs: Sequence[EngineSpec], converters: Sequence[ConverterSpec] = (), **fields: Any) -> EngineChooser:
    return EngineChooser(specs, converters, installation=InstalledPackages(), **fields)


def converter(name: str = "press", **fields: Any) -> ConverterSpec:
    return ConverterSpec(
        name=name,
        summary="",
        convert="nowhere:convert",
        match=lambda *_: Match(score=100, reason=""),
        install_hint=f"pip install 'corral[{name}]'",
        **fields,
    )


def model(*roles: Any) -> StoredModel:
    digest = digest_of(b"")
    files = tuple(ModelFile(role=role, media_type="", digest=digest, size_bytes=1) for role in roles)
    return StoredModel(name=parse_name("toy"), digest=digest, size_bytes=1, modified_at=0.0, files=files)


TOY = model("weights")


def chosen(chooser: EngineChooser, name: str | None = None, record: StoredModel = TOY) -> str:
    return chooser.choose(record, None, name).spec.name


def test_the_best_match_wins() -> None:
    """The highest score wins in any order."""
    assert chosen(choosing([engine("low", 50), engine("high", 100), engine("middle", 70)])) == "high"


def test_installed_engines_come_first() -> None:
    """A better match that is not installed is not chosen."""
    assert chosen(choosing([engine("best", 100, module=ABSENT), engine("there", 10)])) == "there"


def test_an_engine_that_can_do_the_task_comes_first() -> None:
    """A better match that cannot make embeddings is chosen for one only if no installed engine can, or it is named."""
    vectors = frozenset({"embedding"})
    engines = [
        engine("best", 100),
        engine("able", 50, tasks=vectors),
        engine("absent", 70, tasks=vectors, module=ABSENT),
    ]
    assert choosing(engines).choose(TOY, None, tasks=vectors).spec.name == "able"
    assert choosing(engines).choose(TOY, None, tasks={"completion", "chat"}).spec.name == "best"
    assert choosing(engines).choose(TOY, None, "best", tasks=vectors).spec.name == "best"
    assert choosing([engines[0], engines[2]]).choose(TOY, None, tasks=vectors).spec.name == "best"


def test_ties_go_by_the_setting_and_then_by_registration() -> None:
    """Engines that the setting does not mention come last; the order never overrides a better match."""
    engines = [engine("a"), engine("b"), engine("c"), engine("d", 101)]
    assert chosen(choosing(engines[:3])) == "a"
    assert chosen(choosing(engines[:3], order=["c", "b"])) == "c"
    assert chosen(choosing(engines[:3], order=["b"])) == "b"
    assert chosen(choosing(engines, order=["c"])) == "d"


def test_no_engine_lists_every_reason() -> None:
    """The error lists each engine with its own reason."""
    with pytest.raises(NoEngine, match=r"toy:latest \(a: a says 0; b: b says 0\)"):
        chosen(choosing([engine("a", 0), engine("b", 0)]))
    with pytest.raises(NoEngine, match="there is none"):
        chosen(choosing([]))


def test_what_to_install_is_one_line() -> None:
    """The best match's pip line is the remedy; the message says what is missing and which other extras would work."""
    engines = [engine("a", 10, module=ABSENT), engine("b", 90, module=ABSENT), engine("c", 0)]
    with pytest.raises(EngineNotInstalled) as caught:
        chosen(choosing(engines))
    assert caught.value.remedy == pip_line("corral[b]")
    assert "toy:latest" in caught.value.message
    assert f"a (the module {ABSENT} is not installed)" in caught.value.message
    assert f"{pip_line('corral[a]')} would work too" in caught.value.message
    assert "c" not in caught.value.message.partition(":")[2].split("(")[0]


def test_what_must_be_compiled_is_proposed_where_it_can_be(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a C++ compiler, an engine that has wheels is suggested, although it matches less well."""
    engines = [engine("compiled", 100, module=ABSENT, compiled=True), engine("wheels", 50, module=ABSENT)]
    compiler = tmp_path / "c++"
    compiler.touch(mode=0o755)
    for path, proposed in ((str(tmp_path), "compiled"), (str(tmp_path / "empty"), "wheels")):
        monkeypatch.setenv("PATH", path)
        with pytest.raises(EngineNotInstalled) as caught:
            chosen(choosing(engines))
        assert caught.value.remedy == pip_line(f"corral[{proposed}]")


def test_an_engine_asked_for_by_name() -> None:
    """A named engine is used even if another matches better; it must exist, be installed, and accept the model."""
    engines = [
        engine("best"),
        engine("other", 1),
        engine("shy", -1),
        engine("unable", 0),
        engine("absent", module=ABSENT),
    ]
    chooser = choosing(engines)
    assert chosen(chooser, "other") == "other"
    assert chosen(chooser, "shy") == "shy"
    with pytest.raises(NoEngine, match="the unable engine cannot run toy:latest: unable says 0") as unable:
        chosen(chooser, "unable")
    assert unable.value.remedy == "engines that can run it: best, other, absent"
    with pytest.raises(UnknownEngine, match="there is no engine 'nobody'") as unknown:
        chosen(chooser, "nobody")
    assert "best, other" in (unknown.value.remedy or "")
    with pytest.raises(EngineNotInstalled, match=ABSENT) as absent:
        chosen(chooser, "absent")
    assert absent.value.remedy == pip_line("corral[absent]")


def test_an_engine_that_is_shy_runs_only_when_asked() -> None:
    """A negative score never wins by itself."""
    with pytest.raises(NoEngine):
        chosen(choosing([engine("shy", -1)]))


def test_a_match_that_raises_is_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    """An error in a plugin's engine does not affect the others; it is reported and logged."""

    def broken(*_: Any) -> Match:
        raise KeyError("general.architecture")

    chooser = choosing([engine("broken", match=broken), engine("sound", 1)])
    assert chosen(chooser) == "sound"
    [record] = caplog.records
    assert record.getMessage().startswith("the broken engine's match failed for toy:latest: KeyError")
    with pytest.raises(NoEngine, match="its match failed: KeyError"):
        chosen(chooser, "broken")


def test_what_a_converter_keeps_from_being_chosen() -> None:
    """A converter that nobody registered, one whose packages are missing, and an adapter that would be lost."""
    needing = engine("a", converter="press")
    assert choosing([needing], [converter()]).choose(TOY, None).match.derive == Derivation(converter="press")
    with pytest.raises(NoEngine, match="needs the press converter, which is not registered"):
        chosen(choosing([needing]))
    with pytest.raises(EngineNotInstalled) as caught:
        chosen(choosing([needing], [converter(needs=(ABSENT,))]))
    assert caught.value.remedy == pip_line("corral[press]")
    able = engine("a", converter="press", adapters=True)
    with pytest.raises(NoEngine, match="would drop the model's adapter"):
        chosen(choosing([able], [converter()]), record=model("weights", "adapter"))


class Squeeze(msgspec.Struct, frozen=True, kw_only=True):
    bits: int = 16


def squeezed(record: Model, metadata: ModelMetadata | None, options: Squeeze) -> Match:
    if options.bits == 16:
        return Match(score=0, reason="runs squeezed models only")
    return Match(score=100, reason="", derive=Derivation(converter="press", parameters={"bits": options.bits}))


def test_a_match_knows_the_load_options() -> None:
    """A request's options override the settings, which override the defaults; derived options may depend on them."""
    spec = engine("a", match=squeezed, load_options=Squeeze)
    with pytest.raises(NoEngine, match="runs squeezed models only"):
        choosing([spec], [converter()]).choose(TOY, None)
    chooser = choosing([spec], [converter()], settings={"a": {"bits": 8}})
    assert chooser.choose(TOY, None).options == Squeeze(bits=8)
    chosen = chooser.choose(TOY, None, load_options={"bits": 4, "num_gpu": 1})
    assert chosen.match.derive == Derivation(converter="press", parameters={"bits": 4})
    assert (chosen.options, chosen.ignored) == (Squeeze(bits=4), ("num_gpu",))


class Tied(msgspec.Struct, frozen=True, kw_only=True):
    flash_attention: bool | None = None
    kv_cache_type: str = "f16"

    def __post_init__(self) -> None:
        if self.flash_attention is False and self.kv_cache_type != "f16":
            raise InvalidOption(f"{self.kv_cache_type} needs flash attention", "leave flash_attention unset")


@pytest.mark.parametrize(
    ("asked", "options", "ignored"),
    [
        ({}, Tied(kv_cache_type="q8_0"), []),
        ({"flash_attention": True}, Tied(flash_attention=True, kv_cache_type="q8_0"), []),
        ({"flash_attention": False}, Tied(flash_attention=False), ["OLLAMA_KV_CACHE_TYPE"]),
        ({"flash_attention": False, "kv_cache_type": "f16"}, Tied(flash_attention=False), []),
        ({"flash_attention": False, "kv_cache_type": "q4_0"}, None, []),
    ],
)
def test_ollamas_variables_give_way_to_a_request(
    caplog: pytest.LogCaptureFixture, asked: Mapping[str, Any], options: Tied | None, ignored: Sequence[str]
) -> None:
    """A setting of Ollama's variables that excludes what a model or a request asks for is left out, and the log has it;
    what they ask for themselves is not."""
    chooser = choosing(
        [engine("a", load_options=Tied)],
        settings={"a": {"kv_cache_type": "q8_0"}},
        yielding={"a": {"kv_cache_type": YieldingOption(variable="OLLAMA_KV_CACHE_TYPE")}},
    )
    with caplog.at_level(logging.INFO):
        if options is None:
            with pytest.raises(InvalidOption, match="q4_0 needs flash attention"):
                chooser.choose(TOY, None, load_options=asked)
        else:
            assert chooser.choose(TOY, None, load_options=asked).options == options
    assert [message.split(" ")[0] for message in caplog.messages] == ignored


def test_settings_of_corral_do_not_give_way_to_a_request() -> None:
    """The request that contradicts them is refused."""
    chooser = choosing([engine("a", load_options=Tied)], settings={"a": {"kv_cache_type": "q8_0"}})
    with pytest.raises(InvalidOption, match="q8_0 needs flash attention"):
        chooser.choose(TOY, None, load_options={"flash_attention": False})


def test_what_gives_way_leaves_the_setting_beneath() -> None:
    """It is as if the variable were not set."""
    chooser = choosing(
        [engine("a", load_options=Tied)],
        settings={"a": {"flash_attention": False}},
        yielding={"a": {"flash_attention": YieldingOption(variable="OLLAMA_FLASH_ATTENTION", instead=True)}},
    )
    chosen = chooser.choose(TOY, None, load_options={"kv_cache_type": "q8_0"})
    assert chosen.options == Tied(flash_attention=True, kv_cache_type="q8_0")


@pytest.mark.parametrize(
    ("file", "variables", "asked", "options"),
    [
        ("", {"OLLAMA_KV_CACHE_TYPE": "q8_0"}, {"flash_attention": False}, (False, "f16")),
        ("", {"OLLAMA_FLASH_ATTENTION": "0"}, {"row_attention": True}, (None, "f16")),
        ("kv_cache_type = 'bf16'", {"OLLAMA_KV_CACHE_TYPE": "q4_0"}, {"flash_attention": False}, (False, "bf16")),
        ("", {"CORRAL_KV_CACHE_TYPE": "q8_0"}, {"flash_attention": False}, None),
    ],
)
def test_what_the_environment_sets_and_a_request_excludes(
    tmp_path: Path,
    file: str,
    variables: Mapping[str, str],
    asked: Mapping[str, Any],
    options: tuple[bool | None, str] | None,
) -> None:
    """Ollama's variables give way, to what the file says; those of Corral do not."""
    manager = PluginManager()
    manager.register(builtin, "builtin")
    config = tmp_path / "config.toml"
    config.write_text(f"[engines.llama-cpp]\n{file}")
    settings = decode_settings(read_layers(str(config), environment=variables), manager)
    spec = engine("llama-cpp", load_options=LLAMA_CPP.load_options)
    chooser = engine_chooser(settings, manager, [spec])
    if options is None:
        with pytest.raises(InvalidOption, match="kv_cache_type q8_0 needs flash attention"):
            chooser.choose(TOY, None, load_options=asked)
        return
    found = chooser.choose(TOY, None, load_options=asked).options
    assert (found.flash_attention, found.kv_cache_type) == options


def test_load_options_of_another_engine() -> None:
    """A value that is wrong for one engine is an error only if that engine is chosen."""
    wrong = {"bits": "few"}
    chooser = choosing([engine("a", 50, load_options=Squeeze), engine("b", 100)])
    assert chooser.choose(TOY, None, load_options=wrong).spec.name == "b"
    with pytest.raises(InvalidOption, match="load options of the a engine"):
        chooser.choose(TOY, None, "a", load_options=wrong)


def test_an_adapter_is_for_engines_that_load_it() -> None:
    """Any other engine refuses the model, named or not: without its adapter it would be a different model."""
    adapted = model("weights", "adapter")
    chooser = choosing([engine("a"), engine("b", 10, adapters=True), engine("c", -1)])
    assert chosen(chooser, record=adapted) == "b"
    for name in ("a", "c"):
        with pytest.raises(NoEngine, match="does not support adapters, and without its adapter") as caught:
            chosen(chooser, name, record=adapted)
        assert caught.value.remedy == "engines that can run it: b"
    with pytest.raises(NoEngine, match="a: does not support adapters"):
        chosen(choosing([engine("a")]), record=adapted)


def test_which_of_our_engines_of_weights_take_an_adapter() -> None:
    """ctransformers would ignore it, and runs only the model without one; llama.cpp takes any number."""
    for spec, form, takes in ((LLAMA_CPP, "gguf", True), (CTRANSFORMERS, "ggml", False)):
        metadata = ModelMetadata(
            format=form, architecture="llama", file_type="F16", parameter_count=1, tensor_bytes=1, block_count=1
        )
        for record in (TOY, model("weights", "adapter"), model("weights", "adapter", "adapter")):
            [candidate] = choosing([spec]).candidates(record, metadata)
            assert (candidate.match.score > 0) == (takes or record is TOY)


def test_which_of_our_engines_load_adapters() -> None:
    """All others refuse a model that has one; ONNX Runtime GenAI refuses a model with several, because it applies only
    one.
    """
    manager = PluginManager()
    manager.register(builtin, "builtin")
    assert len(manager.specs(ENGINES)) >= 5
    assert sorted(spec.name for spec in manager.specs(ENGINES) if spec.adapters) == [LLAMA_CPP.name, ONNX_GENAI.name]
    config = msgspec.structs.replace(model("config").files[0], path="genai_config.json")
    for count, score in ((0, 100), (1, 100), (2, 0)):
        files = (config, *model(*["adapter"] * count).files)
        folder = msgspec.structs.replace(TOY, format="onnx", files=files)
        [candidate] = choosing([ONNX_GENAI]).candidates(folder, None)
        assert candidate.match.score == score


@pytest.mark.parametrize(
    ("keys", "reason"),
    [({"split.count": 3}, "one of 3 parts"), ({"general.type": "adapter"}, "an adapter is not a model of its own")],
)
def test_weights_that_are_no_model(keys: dict[str, Any], reason: str) -> None:
    """A part of a split file, and a LoRA file in place of the weights, are refused before an engine loads them."""
    metadata = ModelMetadata(
        format="gguf", architecture="llama", file_type="F16", parameter_count=1, tensor_bytes=1, keys=keys
    )
    with pytest.raises(NoEngine, match=reason):
        choosing([engine("a", adapters=True)]).choose(TOY, metadata)
    whole = msgspec.structs.replace(metadata, keys={"split.count": 1, "general.type": "model"})
    assert choosing([engine("a")]).choose(TOY, whole).spec.name == "a"


def test_what_is_said_before_a_model_is_there() -> None:
    """Empty if an engine is installed, otherwise what to install. Engines that never volunteer and remote ones do
    not count."""
    absent, shy = engine("a", module=ABSENT), engine("shy", -1)
    remote = engine("remote", 0, form="running")
    choosing([absent, engine("there", 0)]).require()
    with pytest.raises(EngineNotInstalled, match="no engine is installed: a ") as caught:
        choosing([absent, shy, remote]).require()
    assert caught.value.remedy == pip_line("corral[a]")
    choosing([absent, shy]).require("shy")
    with pytest.raises(EngineNotInstalled, match="the a engine cannot run here"):
        choosing([absent, shy]).require("a")
    with pytest.raises(UnknownEngine, match="there is no engine 'b'"):
        choosing([absent]).require("b")


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({}, ""),
        ({"module": "json", "needs": ("email.mime", "http")}, ""),
        ({"module": ABSENT}, f"the module {ABSENT} is not installed"),
        ({"module": "json", "needs": (ABSENT, "corral_nor_this.part")}, f"the modules {ABSENT}, corral_nor_this.part"),
        ({"requirement": "corral-no-such==1.0"}, "corral-no-such is not installed"),
        ({"requirement": "msgspec==0.0.*"}, "msgspec==0.0.* is needed"),
        ({"requirement": "msgspec>=0.1"}, ""),
        ({"requirement": "msgspec>=999"}, "msgspec>=999 is needed"),
        ({"requirement": "msgspec>=0.1,<999,!=0.2"}, ""),
        ({"requirement": "msgspec>=0.1,<0.2"}, "msgspec>=0.1,<0.2 is needed"),
        ({"requirement": "corral-no-such==1.0 | msgspec>=0.1"}, ""),
        ({"requirement": "msgspec>=999 | click>=1"}, ""),
        ({"requirement": "corral-no-such==1.0 | corral-nor-such==1.0"}, "corral-no-such is not installed"),
    ],
)
def test_what_is_missing(fields: dict[str, Any], missing: str) -> None:
    """Distribution, version, module and further modules, without importing any."""
    found = InstalledPackages().missing(engine("a", **fields))
    assert (missing in found) if missing else found == ""


def test_versions_are_of_distributions() -> None:
    """None if nothing is required or it is not installed."""
    assert InstalledPackages().version(engine("a")) is None
    assert InstalledPackages().version(engine("a", requirement="corral-no-such==1.0")) is None
    assert InstalledPackages().version(engine("a", requirement="msgspec>=0.1"))
    assert InstalledPackages().version(engine("a", requirement="corral-no-such==1.0 | msgspec>=0.1"))


@pytest.mark.parametrize("requirement", ["msgspec", "msgspec>=1.*", "msgspec==one", "==1.0", "", "msgspec>=1 |"])
def test_a_requirement_that_cannot_be_meant(requirement: str) -> None:
    """It is reported as the plugin's fault."""
    with pytest.raises(PluginError, match="invalid requirement"):
        InstalledPackages().check(engine("a", requirement=requirement))

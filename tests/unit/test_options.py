"""Options: types, texts, layers, Modelfile parameters."""

from __future__ import annotations

import math
from typing import Any

import pytest

from corral.core.errors import InvalidOption
from corral.core.requests.options import OPTIONS, parse_options, parse_parameter, resolve_options
from corral.core.requests.requests import ContextPolicy, SamplingParams


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"top_k": "40"}, 'option "top_k" must be of type integer'),
        ({"top_k": True}, 'option "top_k" must be of type integer'),
        ({"num_ctx": [4096]}, 'option "num_ctx" must be of type integer'),
        ({"temperature": True}, 'option "temperature" must be of type float32'),
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"kv_cache_type": 8}, 'option "kv_cache_type" must be of type string'),
        ({"stop": 5}, 'option "stop" must be of type array'),
        ({"stop": ["a", 5]}, 'option "stop" must be of an array of strings'),
        ({"logit_bias": "x"}, 'option "logit_bias" must be of type array'),
        ({"logit_bias": [[1, "x"]]}, 'option "logit_bias" must be of type float32'),
        ({"logit_bias": [[1]]}, 'option "logit_bias" must be an array of [token, bias] pairs, not [1]'),
        ({"mirostat": 3}, 'option "mirostat" must be 0, 1 or 2, not 3'),
        ({"top_k": 1e12}, 'option "top_k" is out of range: 1000000000000.0'),
        ({"temperature": math.inf}, 'option "temperature" is out of range: inf'),
        ({"num_thread": 1_000_000}, 'option "num_thread" is out of range: 1000000'),
        ({"num_parallel": 257}, 'option "num_parallel" is out of range: 257'),
        ({"stop": ["x"] * 20_000}, 'option "stop" has 20000 strings; at most 16384 are accepted'),
        (
            {"dry_sequence_breakers": ["x"] * 33},
            'option "dry_sequence_breakers" has 33 strings; at most 32 are accepted',
        ),
        (
            {"logit_bias": [["x" * 1000, 1]] * 66},
            'option "logit_bias" has strings of 66000 characters in total; at most 65536 are accepted',
        ),
        ({"logit_bias": [["x", 1]] * 5000}, 'option "logit_bias" has 5000 strings; at most 4096 are accepted'),
        (
            {"logit_bias": [[1, 1]] * 600_000},
            'option "logit_bias" has 600000 entries; at most 524288 are accepted',
        ),
    ],
)
def test_a_wrong_type_has_ollamas_text(options: dict[str, Any], text: str) -> None:
    """A value of the wrong type, or out of range, is an InvalidOption with the text clients know."""
    with pytest.raises(InvalidOption) as caught:
        parse_options(options)
    assert str(caught.value) == text


def test_nulls_are_skipped_and_fractions_cut() -> None:
    """Null means unset, and an integer option takes 3.9 as 3."""
    assert parse_options({"top_k": None, "num_predict": 3.9, "temperature": 1}).sampling == {
        "num_predict": 3,
        "temperature": 1.0,
    }


def test_the_engine_is_an_option() -> None:
    """The last layer that names an engine wins; null and an empty text name none; it is not a load option."""
    resolved = resolve_options({"engine": "a", "num_ctx": 8}, {"engine": "b"})
    assert (resolved.engine, resolved.load, resolved.unknown) == ("b", {"num_ctx": 8}, ())
    assert resolve_options({"engine": "a"}, {"engine": None}).engine == "a"
    assert resolve_options({"engine": "a"}, {"engine": ""}).engine is None
    assert resolve_options({}).engine is None
    assert parse_parameter("engine", ["a"]) == "a"
    with pytest.raises(InvalidOption, match='option "engine" must be of type string'):
        resolve_options({"engine": 5})


def test_unknown_names_are_reported_not_refused() -> None:
    """An unknown name, or one without effect, is listed as unknown."""
    assert parse_options({"num_gqa": 8, "draft_num_predict": 4, "low_vram": True}).unknown == (
        "num_gqa",
        "draft_num_predict",
        "low_vram",
    )


def test_a_bare_stop_string_is_a_list_of_one() -> None:
    """Stop may be a string or a list; empty strings, which would stop at once, are left out."""
    assert parse_options({"stop": "END"}).sampling["stop"] == ("END",)
    assert parse_options({"stop": ["", "a"]}).sampling["stop"] == ("a",)


def test_logit_bias_has_both_forms_of_llama_server() -> None:
    """Pairs and objects both work; false forbids a token, a numeric key is an id."""
    pairs = parse_options({"logit_bias": [[5, 1.5], ["cat", False]]}).sampling["logit_bias"]
    assert pairs == ((5, 1.5), ("cat", -math.inf))
    assert parse_options({"logit_bias": {"5": 1.5, "cat": False}}).sampling["logit_bias"] == pairs


def test_the_defaults_are_those_of_sampling_params() -> None:
    """The table and the structs agree, so that what the docs print is what runs."""
    sampling = SamplingParams()
    for row in OPTIONS.values():
        if row.scope == "sampling" and row.name not in ("seed", "num_predict"):
            assert getattr(sampling, row.name) == row.default, row.name
        elif row.scope == "context":
            assert getattr(ContextPolicy(), row.name) == row.default, row.name


def test_later_layers_win_and_scopes_are_kept_apart() -> None:
    """A request's options override the model's parameters, and load options go to the load."""
    resolved = resolve_options(
        {"temperature": 0.1, "num_ctx": 2048, "stop": ["x"], "top_k": 5}, {"temperature": 0.7, "num_gpu": 0}
    )
    assert (resolved.sampling.temperature, resolved.sampling.top_k, resolved.sampling.stop) == (0.7, 5, ("x",))
    assert resolved.load == {"num_ctx": 2048, "num_gpu": 0}
    assert resolved.context.num_ctx == 2048


def test_negative_seed_and_num_predict_mean_none() -> None:
    """-1 draws a random seed or lifts the limit, even if the model's own parameters set one."""
    resolved = resolve_options({"seed": 7, "num_predict": 9}, {"seed": -1, "num_predict": -2})
    assert (resolved.sampling.seed, resolved.sampling.num_predict) == (None, None)
    assert resolve_options({"seed": 0, "num_predict": 0}).sampling == SamplingParams(seed=0, num_predict=0)


def test_num_ctx_is_at_least_four() -> None:
    """Ollama's minimum, for the load and the request alike."""
    resolved = resolve_options({"num_ctx": 1})
    assert (resolved.context.num_ctx, resolved.load["num_ctx"]) == (4, 4)
    assert resolve_options({"num_ctx": 1}, least_num_ctx=2048).load == {"num_ctx": 2048}
    assert resolve_options({}, least_num_ctx=2048).load == {}


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("top_k", ["40"], 40),
        ("temperature", ["0.5"], 0.5),
        ("temperature", ["1", "2e-1"], 0.2),
        ("use_mmap", ["true"], True),
        ("stop", ["a", "b"], ["a", "b"]),
        ("kv_cache_type", ["q8_0"], "q8_0"),
        ("logit_bias", ["42=-1.5", "=)=false"], [[42, -1.5], ["=)", False]]),
        ("low_vram", ["true"], None),
    ],
)
def test_parameters_become_json_values(name: str, values: list[str], expected: Any) -> None:
    """A Modelfile's text becomes what parse_options takes; lists gather, everything else takes the last value."""
    assert parse_parameter(name, values) == expected
    parse_options({name: expected})


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("teperature", ["1"], "unknown parameter 'teperature'"),
        ("top_k", ["x"], "invalid int value [x]"),
        ("top_k", ["3.9"], "invalid int value [3.9]"),
        ("temperature", ["warm"], "invalid float value [warm]"),
        ("use_mmap", ["yes"], "invalid bool value [yes]"),
        ("logit_bias", ["5"], "invalid logit_bias value [5]"),
    ],
)
def test_bad_parameters_have_ollamas_texts(name: str, values: list[str], text: str) -> None:
    """The texts of `ollama create` and `/set parameter`."""
    with pytest.raises(InvalidOption) as caught:
        parse_parameter(name, values)
    assert str(caught.value) == text


@pytest.mark.parametrize("bias", [{"9" * 5000: 1}, [[10**30, 1]], [[-1, 1]], {str(2**31): 1}])
def test_logit_bias_of_no_token(bias: Any) -> None:
    """A token id that no vocabulary can have is refused, however it is spelt."""
    with pytest.raises(InvalidOption, match="logit_bias"):
        parse_options({"logit_bias": bias})


def test_logit_bias_parameter_of_no_token() -> None:
    """A PARAMETER line with such an id is refused as well."""
    with pytest.raises(InvalidOption, match="logit_bias"):
        parse_options({"logit_bias": parse_parameter("logit_bias", ["9" * 5000 + "=1"])})

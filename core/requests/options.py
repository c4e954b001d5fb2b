"""The options of a request and of a Modelfile's PARAMETER lines: one table of names, types, scopes and defaults.

Names, defaults and error texts are Ollama's; names that Ollama does not have are llama-server's, and a few load options
are Corral's own. Everything that reads, prints or documents an option goes through `OPTIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from corral.core.errors import InvalidOption
from corral.core.requests.option_values import OptionKind, checked, read_text
from corral.core.requests.requests import ContextPolicy, SamplingParams
from corral.core.values import Value
from corral.core.wording.suggestions import did_you_mean

__all__ = (
    "LEAST_NUM_CTX",
    "LEAST_NUM_CTX_WITH_IMAGES",
    "OPTIONS",
    "RETIRED",
    "OptionSpec",
    "ParsedOptions",
    "ResolvedOptions",
    "parse_options",
    "parse_parameter",
    "resolve_options",
)

OptionScope = Literal["sampling", "context", "thinking", "load", "engine", "none"]
OptionOrigin = Literal["ollama", "llama-server", "corral"]

LEAST_NUM_CTX, LEAST_NUM_CTX_WITH_IMAGES = 4, 2048
"""As in Ollama."""


class OptionSpec(Value, frozen=True, kw_only=True):
    """One row of the table.

    `scope`: ``sampling``, ``context`` and ``thinking`` hold for one request, ``load`` for a loaded model (another value
    may reload it), ``engine`` says which engine loads it, ``none`` is checked and then has no effect. `default` is the
    value if none is given; None means that the engine decides. `origin` says where the name comes from.
    """

    name: str
    kind: OptionKind
    scope: OptionScope
    default: Any = None
    origin: OptionOrigin = "ollama"
    help: str = ""


def _row(
    name: str,
    kind: OptionKind,
    default: Any,
    help: str,
    *,
    scope: OptionScope = "sampling",
    origin: OptionOrigin = "ollama",
) -> OptionSpec:
    return OptionSpec(name=name, kind=kind, scope=scope, default=default, origin=origin, help=help)


_TABLE: tuple[OptionSpec, ...] = (
    _row("temperature", "float32", 0.8, "0 is greedy"),
    _row("top_k", "integer", 40, "keep the k most likely tokens; 0 keeps all"),
    _row("top_p", "float32", 0.9, "keep the most likely tokens that together reach p"),
    _row("min_p", "float32", 0.0, "drop tokens less likely than p times the best one"),
    _row("typical_p", "float32", 1.0, "locally typical sampling; 1 is off"),
    _row("repeat_last_n", "integer", 64, "how far back penalties look; 0 off, -1 the whole context"),
    _row("repeat_penalty", "float32", 1.0, "divides the logits of repeated tokens; 1 is off"),
    _row("presence_penalty", "float32", 0.0, "subtracted once from the logits of tokens already present"),
    _row("frequency_penalty", "float32", 0.0, "subtracted for each occurrence of a token already present"),
    _row("seed", "integer", -1, "the same seed gives the same answer; negative picks one at random"),
    _row("num_predict", "integer", -1, "maximum number of tokens to generate; negative: ten times the context length"),
    _row("stop", "array", (), "strings that end the answer"),
    _row("num_keep", "integer", 4, "tokens kept from the start when the context shifts", scope="context"),
    _row("num_ctx", "integer", None, "context length, prompt and answer; at least 4, with vision 2048", scope="load"),
    _row("num_batch", "integer", None, "tokens computed in one batch", scope="load"),
    _row("num_gpu", "integer", None, "layers on the GPU; -1 as many as fit, 0 none", scope="load"),
    _row("main_gpu", "integer", None, "the GPU that computes what is not split", scope="load"),
    _row("use_mmap", "boolean", None, "map the weights instead of reading them", scope="load"),
    _row("num_thread", "integer", None, "most CPU threads, up to 512; 0: one per processor", scope="load"),
    _row("draft_num_predict", "integer", None, "accepted for compatibility with Ollama; no effect", scope="none"),
    _row("ignore_eos", "boolean", False, "continue after the end token", origin="llama-server"),
    _row("logit_bias", "bias", (), "[[token id or text, bias or false], …] or an object", origin="llama-server"),
    _row(
        "top_n_sigma",
        "float32",
        -1.0,
        "keep logits within n standard deviations of the best; -1 off",
        origin="llama-server",
    ),
    _row("dynatemp_range", "float32", 0.0, "how far the temperature varies; 0 off", origin="llama-server"),
    _row("dynatemp_exponent", "float32", 1.0, "how entropy maps to temperature", origin="llama-server"),
    _row("dry_multiplier", "float32", 0.0, "strength of the DRY repetition penalty; 0 off", origin="llama-server"),
    _row("dry_base", "float32", 1.75, "DRY: growth per repeated token", origin="llama-server"),
    _row("dry_allowed_length", "integer", 2, "DRY: repetitions up to this length are free", origin="llama-server"),
    _row("dry_penalty_last_n", "integer", -1, "DRY: how far back; 0 off, -1 the whole context", origin="llama-server"),
    _row(
        "dry_sequence_breakers", "array", ("\n", ":", '"', "*"), "DRY: strings that end a match", origin="llama-server"
    ),
    _row(
        "xtc_probability", "float32", 0.0, "XTC: probability of dropping the top choices; 0 off", origin="llama-server"
    ),
    _row("xtc_threshold", "float32", 0.1, "XTC: a top choice is at least this likely", origin="llama-server"),
    _row("mirostat", "integer", 0, "Mirostat version, 1 or 2; 0 off", origin="llama-server"),
    _row("mirostat_tau", "float32", 5.0, "Mirostat: target surprise", origin="llama-server"),
    _row("mirostat_eta", "float32", 0.1, "Mirostat: learning rate", origin="llama-server"),
    _row(
        "thinking_budget",
        "integer",
        None,
        "maximum number of tokens of thinking, after which the answer begins; negative: no limit",
        scope="thinking",
        origin="corral",
    ),
    _row("num_parallel", "integer", None, "requests that run at once, at most 256", scope="load", origin="corral"),
    _row("flash_attention", "boolean", None, "fused attention kernels", scope="load", origin="corral"),
    _row("row_attention", "boolean", None, "attention token by token, on a CPU", scope="load", origin="corral"),
    _row("kv_cache_type", "string", None, "f16, q8_0 or q4_0", scope="load", origin="corral"),
    _row("engine", "string", None, "the engine that runs the model", scope="engine", origin="corral"),
)

OPTIONS: Mapping[str, OptionSpec] = {row.name: row for row in _TABLE}

RETIRED = frozenset({"penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock"})
"""Names in old Modelfiles that Ollama still accepts and ignores."""


class ParsedOptions(Value, frozen=True, kw_only=True):
    """Validated options by scope, as JSON types; only those given. `unknown` names have no effect, so log them."""

    sampling: Mapping[str, Any] = {}
    context: Mapping[str, Any] = {}
    thinking: Mapping[str, Any] = {}
    load: Mapping[str, Any] = {}
    engine: Mapping[str, Any] = {}
    unknown: tuple[str, ...] = ()


class ResolvedOptions(Value, frozen=True, kw_only=True):
    """The options that a request runs with, all layers merged. `load` holds only load options that some layer sets.

    `thinking_budget` is the most tokens of thinking, None if there is no limit. `engine` is the engine that must run
    it, None if any engine may. `asked_num_ctx` is the `num_ctx` as it was asked for, even if no context is so small.
    """

    sampling: SamplingParams = SamplingParams()
    context: ContextPolicy = ContextPolicy()
    asked_num_ctx: int | None = None
    thinking_budget: int | None = None
    load: Mapping[str, Any] = {}
    engine: str | None = None
    unknown: tuple[str, ...] = ()


def parse_options(options: Mapping[str, Any]) -> ParsedOptions:
    """Check decoded JSON against the table: nulls are skipped, and integers drop a fraction.

    Raises `InvalidOption` with Ollama's text for a value of the wrong type.
    """
    scopes: dict[str, dict[str, Any]] = {"sampling": {}, "context": {}, "thinking": {}, "load": {}, "engine": {}}
    unknown: list[str] = []
    for name, value in options.items():
        if value is None:
            continue
        row = OPTIONS.get(name)
        if row is None:
            unknown.append(name)
            continue
        wanted = checked(row.kind, name, value)
        if row.scope == "none":
            unknown.append(name)
        else:
            scopes[row.scope][name] = wanted
    return ParsedOptions(**scopes, unknown=tuple(unknown))


def resolve_options(*layers: Mapping[str, Any], least_num_ctx: int = LEAST_NUM_CTX) -> ResolvedOptions:
    """Merge layers of options, later ones winning: a model's PARAMETER layer, then the request's `options`.

    A `num_ctx` below `least_num_ctx` is raised to it. Raises `InvalidOption`.
    """
    sampling: dict[str, Any] = {}
    context: dict[str, Any] = {}
    load: dict[str, Any] = {}
    thinking_budget = -1
    engine: str | None = None
    unknown: dict[str, None] = {}
    for layer in layers:
        if not layer:
            continue
        parsed = parse_options(layer)
        sampling.update(parsed.sampling)
        context.update(parsed.context)
        load.update(parsed.load)
        thinking_budget = parsed.thinking.get("thinking_budget", thinking_budget)
        engine = parsed.engine.get("engine", engine) or None
        unknown.update(dict.fromkeys(parsed.unknown))
    for name in ("seed", "num_predict"):
        if sampling.get(name, 0) < 0:
            del sampling[name]
    asked_num_ctx = load.get("num_ctx")
    if asked_num_ctx is not None:
        load["num_ctx"] = context["num_ctx"] = max(asked_num_ctx, least_num_ctx)
    return ResolvedOptions(
        sampling=SamplingParams(**sampling),
        context=ContextPolicy(**context),
        asked_num_ctx=asked_num_ctx,
        thinking_budget=None if thinking_budget < 0 else thinking_budget,
        load=load,
        engine=engine,
        unknown=tuple(unknown),
    )


def parse_parameter(name: str, values: Sequence[str]) -> Any:
    """A PARAMETER's text as a JSON value for `parse_options`.

    Lists (`stop`) use all values, other options the last one. Returns None for a name that Ollama has retired.
    Raises `InvalidOption` with Ollama's texts.
    """
    row = OPTIONS.get(name)
    if row is None:
        if name in RETIRED:
            return None
        raise InvalidOption(
            f"unknown parameter '{name}'", did_you_mean(name, OPTIONS, f"known parameters: {', '.join(OPTIONS)}")
        )
    if not values:
        raise InvalidOption(f"parameter '{name}' has no value")
    return read_text(row.kind, name, values)

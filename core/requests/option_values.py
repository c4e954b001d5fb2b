"""The values of options, by kind: checks those that come as JSON, and reads those that come as text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from corral.core.errors import InvalidOption, MistypedOption

__all__ = ("OptionKind", "checked", "read_text")

OptionKind = Literal["integer", "float32", "boolean", "string", "array", "bias"]

# A seed may be any 64-bit integer; everything else ends in a C int.
_BITS = {"seed": 63}
# Larger values crash native code or keep it busy starting threads, and any client can send options.
_MOST = {"num_thread": 512, "num_parallel": 256}
# These are searched for every token, or compared with the whole vocabulary.
_MOST_TEXTS = {"dry_sequence_breakers": 32, "stop": 16_384}
_MOST_BIASES, _MOST_BIASED_TEXTS, _MOST_BIASED_CHARS = 1 << 19, 4096, 64 << 10


def checked(kind: OptionKind, name: str, value: Any) -> Any:
    """The value for the option, from decoded JSON; integers drop a fraction. Raises `InvalidOption`."""
    return _CHECKS[kind](name, value)


def read_text(kind: OptionKind, name: str, values: Sequence[str]) -> Any:
    """The texts of a PARAMETER as JSON for `checked`: lists use all of them, other kinds the last one.

    Raises `InvalidOption` with Ollama's texts.
    """
    text = values[-1]
    shown = f"[{' '.join(values)}]"
    match kind:
        case "array":
            return list(values)
        case "integer":
            if re.fullmatch(r"[+-]?[0-9]{1,19}", text) is None:
                raise InvalidOption(f"invalid int value {shown}", f"{name} must be an integer")
            return int(text)
        case "float32":
            if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text) is None:
                raise InvalidOption(f"invalid float value {shown}", f"{name} is a number")
            return float(text)
        case "boolean":
            if text not in _GO_BOOLS:
                raise InvalidOption(f"invalid bool value {shown}", f"{name} must be true or false")
            return _GO_BOOLS[text]
        case "bias":
            return [_parse_bias(value, shown) for value in values]
        case _:
            return text


_GO_BOOLS = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "FALSE", "false", "False"), False
)


def _parse_bias(text: str, shown: str) -> list[Any]:
    """One ``TOKEN=BIAS``, as in ``PARAMETER logit_bias 42=-1.5``; a token that is a number is an id."""
    token, equals, bias = text.rpartition("=")
    if not equals or not token:
        raise InvalidOption(f"invalid logit_bias value {shown}", "write TOKEN=BIAS, for example 42=-1.5 or 42=false")
    try:
        value: float | bool = False if bias == "false" else float(bias)
    except ValueError:
        raise InvalidOption(f"invalid float value {shown}") from None
    return [_token(token), value]


def _token(text: str) -> int | str:
    """A token id if the text is a number. Only its first digits matter: it is out of range anyway if it has more."""
    return int(text[:20]) if text.isdecimal() else text


def _wrong_type(name: str, word: str) -> MistypedOption:
    return MistypedOption(f'option "{name}" must be of type {word}')


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong_type(name, "integer")
    number = int(value)
    bound = 1 << _BITS.get(name, 31)
    if not -bound <= number < bound or number > _MOST.get(name, number):
        raise InvalidOption(f'option "{name}" is out of range: {value}')
    if name == "mirostat" and number not in (0, 1, 2):
        raise InvalidOption(f'option "mirostat" must be 0, 1 or 2, not {number}')
    return number


def _float(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(name, "float32")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidOption(f'option "{name}" is out of range: {value}')
    return number


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type(name, "boolean")
    return value


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong_type(name, "string")
    return value


def _strings(name: str, value: Any) -> tuple[str, ...]:
    """A bare string counts as a list of one. Empty strings mean nothing and are left out."""
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, list | tuple):
        raise _wrong_type(name, "array")
    if not all(isinstance(item, str) for item in value):
        raise MistypedOption(f'option "{name}" must be of an array of strings')
    if len(value) > _MOST_TEXTS.get(name, len(value)):
        raise InvalidOption(f'option "{name}" has {len(value)} strings; at most {_MOST_TEXTS[name]} are accepted')
    return tuple(item for item in value if item)


def _bias(name: str, value: Any) -> tuple[tuple[int | str, float], ...]:
    """llama-server's two forms: pairs, or an object whose numeric keys are token ids. ``false`` forbids a token."""
    if isinstance(value, Mapping):
        value = [(_token(key), bias) for key, bias in value.items()]
    if not isinstance(value, list | tuple):
        raise _wrong_type(name, "array")
    if len(value) > _MOST_BIASES:
        raise InvalidOption(f'option "{name}" has {len(value)} entries; at most {_MOST_BIASES} are accepted')
    pairs: list[tuple[int | str, float]] = []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            shown = repr(pair)
            raise InvalidOption(f'option "{name}" must be an array of [token, bias] pairs, not {shown}', quoted=shown)
        token, bias = pair
        if isinstance(token, bool) or not isinstance(token, int | str) or token == "":
            shown = repr(token)
            raise InvalidOption(f'option "{name}" must name a token by id or text, not {shown}', quoted=shown)
        if isinstance(token, int) and not 0 <= token < 1 << 31:
            raise InvalidOption(f'option "{name}" names the token {token}, which is not in any vocabulary')
        pairs.append((token, -math.inf if bias is False else _float(name, bias)))
    texts = sum(isinstance(token, str) for token, _ in pairs)
    if texts > _MOST_BIASED_TEXTS:
        raise InvalidOption(f'option "{name}" has {texts} strings; at most {_MOST_BIASED_TEXTS} are accepted')
    chars = sum(len(token) for token, _ in pairs if isinstance(token, str))
    if chars > _MOST_BIASED_CHARS:
        raise InvalidOption(
            f'option "{name}" has strings of {chars} characters in total; at most {_MOST_BIASED_CHARS} are accepted'
        )
    return tuple(pairs)


_CHECKS: Mapping[OptionKind, Callable[[str, Any], Any]] = {
    "integer": _integer,
    "float32": _float,
    "boolean": _boolean,
    "string": _string,
    "array": _strings,
    "bias": _bias,
}

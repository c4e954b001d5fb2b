"""JSON as Go's encoder writes it."""

from __future__ import annotations

import pytest

from corral.core.go.json_encoding import encode_json


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None]}, '{"b":1,"a":[true,null]}'),
        ("<|end|> & more", r'"\u003c|end|\u003e \u0026 more"'),
        ("é🙂\x00\x1f\n\t\"\\\x7f", '"é🙂\\u0000\\u001f\\n\\t\\"\\\\\x7f"'),
        ("\u2028", r'"\u2028"'), ("\ud800", r'"\ufffd"'),
        (0.7, "0.7"), (4096.0, "4096"), (-0.5, "-0.5"), (1e20, "100000000000000000000"), (1e21, "1e+21"),
        (1e-6, "0.000001"), (1.5e-7, "1.5e-7"), (0.0, "0"), (2**63, "9223372036854775808"), ([], "[]"), ({}, "{}"),
        ("\b\f", r'"\b\f"'),
    ],
)  # fmt: skip
def test_values(value: object, text: str) -> None:
    """Each value has Go's text, and the line ends with a line break."""
    assert encode_json(value) == f"{text}\n".encode()


def test_keys_of_maps_are_sorted() -> None:
    """Go sorts the keys of maps by their bytes, at every depth, and keeps those of structs."""
    value = {"é": 1, "z": {"b": 1, "a": 2}, "Z": 3}
    assert encode_json(value, sort_keys=True) == '{"Z":3,"z":{"a":2,"b":1},"é":1}\n'.encode()


@pytest.mark.parametrize(("value", "error"), [(float("nan"), ValueError), (b"", TypeError), (object(), TypeError)])
def test_what_json_does_not_have(value: object, error: type[Exception]) -> None:
    """Infinity, NaN and foreign objects are refused."""
    with pytest.raises(error):
        encode_json({"x": value})

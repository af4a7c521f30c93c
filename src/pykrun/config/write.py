"""A description as TOML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def show(document: Mapping[str, Any]) -> str:
    """Write keys and values: plain ones first, then tables, then arrays of tables; what is empty is left out.

    :raise UnicodeEncodeError: a text is one that TOML cannot hold (not Unicode).
    """
    plain, tables, arrays = [], [], []
    for key, value in document.items():
        if value in (None, [], {}):
            continue
        if isinstance(value, Mapping):
            lines = [f"{_key(name)} = {_value(inner)}" for name, inner in value.items()]
            tables.append("\n".join([f"\n[{_key(key)}]", *lines]))
        elif isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
            for one in value:
                lines = [f"{_key(name)} = {_value(inner)}" for name, inner in one.items()]
                arrays.append("\n".join([f"\n[[{_key(key)}]]", *lines]))
        else:
            plain.append(f"{_key(key)} = {_value(value)}")
    return "\n".join([*plain, *tables, *arrays]) + "\n"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {_value(inner)}" for name, inner in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return _text(value)


def _text(value: str) -> str:
    value.encode()  # surrogates are no Unicode
    return '"' + "".join(_ESCAPES.get(char) or _escaped(char) for char in value) + '"'


def _escaped(char: str) -> str:
    return char if char.isprintable() or char == " " else f"\\U{ord(char):08x}"

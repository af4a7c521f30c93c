"""JSON without the modules of `json`: they import `re`, which takes as long as the rest of a verb.

The interpreter's own scanner and string encoder (`_json`) do the work, as in the standard library.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BLANKS = " \t\r\n"


class _Options:
    """What the scanner asks its decoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}

    @staticmethod
    def parse_constant(name: str) -> object:
        """NaN and infinities are no JSON."""
        raise ValueError(f"{name} is no JSON")


def loads(data: bytes) -> Any:
    """Return the value.

    :raise ValueError: it is no JSON, or no UTF-8; the message says where.
    """
    text = data.decode()
    start = len(text) - len(text.lstrip(_BLANKS))
    try:
        value, end = make_scanner(_Options())(text, start)  # type: ignore[arg-type]
    except StopIteration as stopped:
        raise ValueError(f"a value is expected at character {stopped.value}") from None
    except SystemError:  # it has looked for json's own error, which is not imported
        import json

        json.loads(text)
        raise
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if text[end:].strip(_BLANKS):
        raise ValueError(f"the value ends at character {end}, and more follows")
    return value


def dumps(value: object, indent: int = 0) -> str:
    """Return plain values (dict, list, tuple, str, int, bool, float, None) as JSON.

    :param indent: blanks per level; 0 for all in one line.
    :raise ValueError: a number that JSON does not know.
    :raise TypeError: something that JSON does not know.
    """
    return _write(value, indent, "\n" if indent else "")


def _write(value: object, indent: int, line: str) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        if value - value != 0:
            raise ValueError(f"{value} is not JSON compliant")
        return float.__repr__(value)
    if isinstance(value, str):
        return str(encode_basestring_ascii(value))
    inner = line + " " * indent
    if isinstance(value, dict):
        colon = ": " if indent else ":"
        parts = [f"{encode_basestring_ascii(key)}{colon}{_write(item, indent, inner)}" for key, item in value.items()]
        opening, closing = "{}"
    elif isinstance(value, list | tuple):
        parts = [_write(item, indent, inner) for item in value]
        opening, closing = "[]"
    else:
        raise TypeError(f"{type(value).__name__} is no JSON")
    return opening + inner + ("," + inner).join(parts) + line + closing if parts else opening + closing

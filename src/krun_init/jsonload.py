"""JSON (RFC 8259) on the C scanner alone: the json package would add 2.9 MB to the blob."""

from __future__ import annotations

import _json
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_WHITE = " \t\n\r"


class _Malformed(ValueError):
    """What the C scanner raises, with the arguments that json.JSONDecodeError takes."""

    def __init__(self, message: str, document: str, position: int) -> None:
        super().__init__(f"{message} (character {position})")


if "io" not in sys.modules:  # the blob: the scanner looks its exception up in a package that is not there
    _decoder: Any = type(sys)("json.decoder")
    _decoder.JSONDecodeError = _Malformed
    sys.modules["json.decoder"] = _decoder


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


class _Context:
    """The scanner's settings, under the names it looks for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)


_scan = _json.make_scanner(_Context)  # type: ignore[arg-type]  # the stubs want a JSONDecoder; it reads attributes only


def loads(data: bytes) -> Any:
    """The value that the bytes hold.

    :raise ValueError: not UTF-8, not JSON, or nested too deeply; says where.
    """
    text = str(data, "utf-8")
    start = _skip(text, 0)
    try:
        value, end = _scan(text, start)
    except StopIteration as stop:
        raise ValueError(f"a value is missing (character {stop.value})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    end = _skip(text, end)
    if end != len(text):
        raise ValueError(f"something follows the value (character {end})")
    return value


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _WHITE:
        position += 1
    return position

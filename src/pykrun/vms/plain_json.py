"""JSON by the standard library's accelerator alone.

`json` around it brings re and enum: as long to import as everything else that a client of a VM needs.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Settings:
    """What the scanner asks of a `json.JSONDecoder`."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float
    memo: Any = None


def dumps(value: object) -> str:
    """Return JSON without blanks, in ASCII.

    :raise ValueError: a number that JSON does not know.
    :raise TypeError: something that JSON does not know.
    """
    if "json" not in sys.modules:
        try:
            from _json import encode_basestring_ascii, make_encoder
        except ImportError:  # another Python
            pass
        else:
            encode = make_encoder(None, _unknown, encode_basestring_ascii, None, ":", ",", False, False, False)
            return "".join(encode(value, 0))
    import json

    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _unknown(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is nothing that JSON knows")


def loads(text: str) -> Any:
    """Return what JSON says.

    :raise ValueError: it is none.
    :raise RecursionError: it is too deep.
    """
    if "json" not in sys.modules:
        try:
            from _json import make_scanner

            value, end = make_scanner(_Settings())(text, 0)  # type: ignore[arg-type]  # it asks for no more than that
            if end == len(text):
                return value
        except (ImportError, StopIteration, SystemError, ValueError):  # whatever is wrong, json says what
            pass
    import json

    return json.loads(text)

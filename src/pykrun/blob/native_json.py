"""A stand-in for CPython's C module `_json`, for the native recipe: Debian's archive does not have that module.

Only what krun_init uses: `make_scanner(context)`, a callable that reads the value at an index and returns it with the
index behind it. It raises StopIteration where a value should begin and does not, ValueError for all else that is wrong.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WHITE = " \t\n\r"
_DIGITS = "0123456789"
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORDS = {"null": None, "true": True, "false": False}
_CONSTANTS = ("NaN", "Infinity", "-Infinity")


class make_scanner:
    """`scanner(text, index)` gives (value, index behind it)."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __call__(self, text: str, index: int) -> tuple[Any, int]:
        """The value at the index, and the index behind it."""
        if index < 0:
            raise ValueError("an index cannot be negative")
        first = text[index : index + 1]
        if first == '"':
            return _string(text, index + 1)
        if first == "{":
            return self._object(text, index + 1)
        if first == "[":
            return self._array(text, index + 1)
        for word, value in _WORDS.items():
            if text.startswith(word, index):
                return value, index + len(word)
        for word in _CONSTANTS:
            if text.startswith(word, index):
                return self._context.parse_constant(word), index + len(word)
        return self._number(text, index)

    def _object(self, text: str, index: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        index = _skip(text, index)
        if text[index : index + 1] == "}":
            return found, index + 1
        while True:
            if text[index : index + 1] != '"':
                raise _malformed("a name in double quotes is missing", index)
            name, index = _string(text, index + 1)
            index = _skip(text, index)
            if text[index : index + 1] != ":":
                raise _malformed("a colon is missing", index)
            found[name], index = self._member(text, index + 1)
            if text[index : index + 1] == "}":
                return found, index + 1
            index = _skip(text, _comma(text, index))

    def _array(self, text: str, index: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        index = _skip(text, index)
        if text[index : index + 1] == "]":
            return found, index + 1
        while True:
            value, index = self._member(text, index)
            found.append(value)
            if text[index : index + 1] == "]":
                return found, index + 1
            index = _comma(text, index)

    def _member(self, text: str, index: int) -> tuple[Any, int]:
        """A value within another, with the white space on both its sides."""
        value, index = self(text, _skip(text, index))
        return value, _skip(text, index)

    def _number(self, text: str, start: int) -> tuple[Any, int]:
        index = start + (text[start : start + 1] == "-")
        whole = _digits(text, index)
        if whole == index:
            raise StopIteration(start)
        if text[index] == "0":
            whole = index + 1
        end = whole
        if text[end : end + 1] == "." and _digits(text, end + 1) > end + 1:
            end = _digits(text, end + 1)
        if text[end : end + 1] in ("e", "E"):
            sign = end + 1 + (text[end + 1 : end + 2] in ("+", "-"))
            if _digits(text, sign) > sign:
                end = _digits(text, sign)
        parse = self._context.parse_int if end == whole else self._context.parse_float
        return parse(text[start:end]), end


def _malformed(message: str, index: int) -> ValueError:
    return ValueError(f"{message} (character {index})")


def _skip(text: str, index: int) -> int:
    while text[index : index + 1] and text[index] in _WHITE:
        index += 1
    return index


def _digits(text: str, index: int) -> int:
    while text[index : index + 1] and text[index] in _DIGITS:
        index += 1
    return index


def _comma(text: str, index: int) -> int:
    if text[index : index + 1] != ",":
        raise _malformed("a comma is missing", index)
    return index + 1


def _string(text: str, index: int) -> tuple[str, int]:
    """The string whose first character is at the index."""
    parts = []
    while True:
        end = index
        while text[end : end + 1] and text[end] not in '"\\' and text[end] >= " ":
            end += 1
        parts.append(text[index:end])
        stop = text[end : end + 1]
        if stop == '"':
            return "".join(parts), end + 1
        if stop != "\\":
            raise _malformed("a string does not end, or holds a control character", end)
        escape = text[end + 1 : end + 2]
        if escape == "u":
            character, index = _unicode(text, end + 2)
        elif escape and escape in _ESCAPES:
            character, index = _ESCAPES[escape], end + 2
        else:
            raise _malformed("an unknown escape", end)
        parts.append(character)


def _unicode(text: str, index: int) -> tuple[str, int]:
    r"""The character of `\uXXXX`, or of two of them that are a surrogate pair; the index is that of the digits."""
    high = _hex(text, index)
    index += 4
    if 0xD800 <= high <= 0xDBFF and text[index : index + 2] == "\\u":
        low = _hex(text, index + 2)
        if 0xDC00 <= low <= 0xDFFF:
            return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)), index + 6
    return chr(high), index


def _hex(text: str, index: int) -> int:
    digits = text[index : index + 4]
    if len(digits) != 4 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        raise _malformed("four hexadecimal digits are missing", index)
    return int(digits, 16)

"""Typed access to a JSON object: one exact message for whatever has the wrong type or lies out of range."""

from __future__ import annotations

from pykrun.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAMES: dict[object, str] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a fraction",
    bool: "true or false",
    type(None): "null",
}


class Fields:
    """The fields of one object; null counts as absent, as Go's decoder has it.

    :param where: what the object is called in messages: `config.json: process`.
    :raise UsageError: it is no object.
    """

    def __init__(self, where: str, value: Any) -> None:
        self.where = where
        self.all: dict[str, Any] = _expect(where, value, dict)

    def __contains__(self, name: str) -> bool:
        return self.all.get(name) is not None

    def label(self, name: str) -> str:
        """What the field is called in messages."""
        return f"{self.where}.{name}" if ": " in self.where else f"{self.where}: {name}"

    def refuse(self, name: str, why: str) -> UsageError:
        """The error for a field whose value cannot be."""
        return UsageError(f"{self.label(name)} {why}")

    def get(self, name: str, kind: type) -> Any:
        """The value, None where it is absent.

        :raise UsageError: it is of another type.
        """
        value = self.all.get(name)
        return None if value is None else _expect(self.label(name), value, kind)

    def text(self, name: str) -> str:
        """A string without NUL; empty where it is absent."""
        value = self.all.get(name)
        return "" if value is None else _text(self.label(name), value)

    def needed(self, name: str) -> str:
        """A string that may not be absent or empty."""
        value = self.text(name)
        if not value:
            raise UsageError(f"{self.label(name)} is missing")
        return value

    def texts(self, name: str) -> list[str]:
        """An array of strings."""
        return [_text(f"{self.label(name)}[{index}]", item) for index, item in enumerate(self.get(name, list) or ())]

    def number(self, name: str, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`."""
        value = self.all.get(name)
        return None if value is None else _number(self.label(name), value, low, high)

    def numbers(self, name: str, low: int, high: int) -> list[int]:
        """An array of them."""
        items = enumerate(self.get(name, list) or ())
        return [_number(f"{self.label(name)}[{index}]", item, low, high) for index, item in items]

    def flag(self, name: str) -> bool:
        """True or false; absent is false."""
        return bool(self.get(name, bool))

    def child(self, name: str) -> Fields:
        """An object in it; an absent one is empty."""
        value = self.all.get(name)
        return Fields(self.label(name), {} if value is None else value)

    def children(self, name: str) -> list[Fields]:
        """An array of objects."""
        return [Fields(f"{self.label(name)}[{index}]", item) for index, item in enumerate(self.get(name, list) or ())]

    def table(self, name: str) -> dict[str, str]:
        """An object whose values are strings."""
        inner = self.child(name)
        return {key: _text(inner.label(key), value) for key, value in inner.all.items()}


def _expect(label: str, value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise UsageError(f"{label} must be {_NAMES[kind]}, not {_NAMES[type(value)]}")
    return value


def _text(label: str, value: Any) -> str:
    text: str = _expect(label, value, str)
    if "\0" in text:
        raise UsageError(f"{label} must not hold a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{label} holds half of a surrogate pair") from None
    return text


def _number(label: str, value: Any, low: int, high: int) -> int:
    number: int = _expect(label, value, int)
    if not low <= number <= high:
        raise UsageError(f"{label} must be a number from {low} to {high}, not {number}")
    return number

"""Typed access to a JSON object: one clear message for whatever has the wrong type or lies out of range."""

from __future__ import annotations

from krun_init.errors import InitError

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
    """The fields of one object; null counts as absent.

    :param where: what the object is called in messages, e.g. `/.krun_config.json: process`.
    """

    __slots__ = ("_fields", "where")

    def __init__(self, where: str, value: Any) -> None:
        self.where = where
        self._fields: dict[str, Any] = expect(where, value, dict)

    def __contains__(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def get(self, name: str, kind: type) -> Any:
        """The value, or None where it is absent.

        :raise InitError: it is of another type.
        """
        value = self._fields.get(name)
        return None if value is None else expect(self.label(name), value, kind)

    def label(self, name: str) -> str:
        """What the field is called in messages."""
        return f"{self.where}.{name}" if ": " in self.where else f"{self.where}: {name}"

    def text(self, name: str) -> str | None:
        """A string that may go to the kernel.

        :raise InitError: no string, or one with a NUL.
        """
        value = self._fields.get(name)
        return None if value is None else text(self.label(name), value)

    def texts(self, name: str) -> list[str] | None:
        """An array of such strings."""
        values = self.get(name, list)
        return None if values is None else [text(self.label(name), value) for value in values]

    def number(self, name: str, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`."""
        value = self._fields.get(name)
        return None if value is None else number(self.label(name), value, low, high)

    def numbers(self, name: str, low: int, high: int) -> list[int] | None:
        """An array of such numbers."""
        values = self.get(name, list)
        return None if values is None else [number(self.label(name), value, low, high) for value in values]

    def flag(self, name: str) -> bool:
        """True or false; absent is false."""
        return bool(self.get(name, bool))

    def child(self, name: str) -> Fields | None:
        """An object inside this one."""
        value = self._fields.get(name)
        return None if value is None else Fields(self.label(name), value)

    def children(self, name: str) -> list[Fields]:
        """An array of objects; absent is empty."""
        values = self.get(name, list) or ()
        return [Fields(f"{self.label(name)}[{index}]", value) for index, value in enumerate(values)]


def expect(label: str, value: Any, kind: type) -> Any:
    """The value, if it has that type exactly (true is no number here).

    :raise InitError: it has not.
    """
    if type(value) is not kind:
        raise InitError(f"{label} must be {_NAMES[kind]}, not {_NAMES[type(value)]}")
    return value


def text(label: str, value: Any) -> str:
    """A string that may go to the kernel."""
    if type(value) is not str:
        expect(label, value, str)
    if "\0" in value:
        raise InitError(f"{label} must not hold a NUL character")
    if not value.isascii():
        try:
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise InitError(f"{label} holds a lone surrogate that stands for no byte") from None
    return value  # type: ignore[no-any-return]  # checked above; a cast would be a call


def number(label: str, value: Any, low: int, high: int) -> int:
    """A whole number from `low` to `high`."""
    if type(value) is not int:
        expect(label, value, int)
    if not low <= value <= high:
        raise InitError(f"{label} must be a number from {low} to {high}, not {value}")
    return value  # type: ignore[no-any-return]  # checked above; a cast would be a call


def pair(label: str, value: str) -> tuple[str, str]:
    """Split `K=V`.

    :raise InitError: there is no key or no equals sign.
    """
    key, equals, rest = value.partition("=")
    if not key or not equals:
        raise InitError(f"{label} must be of the form NAME=VALUE, not {value!r}")
    return key, rest

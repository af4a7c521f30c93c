"""Records as plain values and back; descriptors become places in the list that travels beside them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from pykrun.request import Descriptor, Entry
from pykrun.shim.memory import memory_file
from pykrun.shim.wire import Plain

TYPE_CHECKING = False  # typing takes as long to import as everything else here
if TYPE_CHECKING:
    from typing import Protocol, cast

    class _Fields(Protocol):
        _fields: tuple[str, ...]

else:
    _Fields = object

    def cast(_kind, value):
        """Return the value."""
        return value


_HOMES = {
    **dict.fromkeys(
        (
            *("Request", "Tree", "Entry", "Volume", "DiskImage", "ImageRoot", "Outcome"),
            *("Console", "Port", "Serial", "Vsock", "Link"),
        ),
        "pykrun.request",
    ),
    **dict.fromkeys(("StartData", "User", "GuestMount", "Address"), "pykrun.start_data"),
    **dict.fromkeys(("Ended", "Failed", "Named", "Reached"), "pykrun.shim.events"),
    "Publish": "pykrun.net",
}
"""The records that may travel, and where they are; a module is imported when the first of its records does."""
_RECORD, _DESCRIPTOR, _TUPLE, _MAPPING, _BUFFER = range(5)
_INLINE = 4096
"""Bytes of content up to which a message carries it; more goes in a file of the kernel's memory."""


class Encoder:
    """Turns records into plain values.

    :ivar descriptors: what has to be sent beside them.
    """

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self._made: list[int] = []

    def encode(self, value: object) -> Plain:
        """Return the plain value.

        :raise OSError: a content finds no room in the kernel's memory.
        """
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int | str):
            return int(value) if isinstance(value, int) else str(value)  # a member of an enumeration does not travel
        if isinstance(value, Descriptor):
            self.descriptors.append(value.number)
            return (_DESCRIPTOR, len(self.descriptors) - 1)
        if isinstance(value, bytes | bytearray | memoryview):
            return value if isinstance(value, bytes) else (_BUFFER, bytes(value))
        if isinstance(value, Entry) and value.content is not None:
            return self._entry(value, value.content)
        if isinstance(value, list | tuple):
            return (_TUPLE, *map(self.encode, value))
        if isinstance(value, Mapping):
            return (_MAPPING, *(self.encode(part) for pair in value.items() for part in pair))
        kind = type(value).__name__
        if kind not in _HOMES or _class(kind) is not type(value):
            raise TypeError(f"{kind} cannot be sent")
        names = cast(_Fields, value)._fields
        return (_RECORD, kind, *(self.encode(getattr(value, name)) for name in names))

    def _entry(self, entry: Entry, content: bytes | bytearray | memoryview) -> Plain:
        """Send long contents and all secrets as files: one copy, and none of a secret in anybody's heap."""
        mode = entry.mode
        if mode is None:
            mode = 0o400 if entry.one_shot else 0o644
        if not entry.one_shot and memoryview(content).nbytes <= _INLINE:
            return (_RECORD, "Entry", entry.path, bytes(content), None, mode, entry.one_shot)
        made = memory_file(content)
        self._made.append(made)
        self.descriptors.append(made)
        place = (_DESCRIPTOR, len(self.descriptors) - 1)
        return (_RECORD, "Entry", entry.path, None, place, mode, entry.one_shot)

    def close(self) -> None:
        """Close what was made for the way; to be called after sending."""
        for descriptor in self._made:
            os.close(descriptor)
        self._made.clear()


def decode(value: Plain, descriptors: list[int]) -> object:
    """Return what was encoded; each descriptor is the caller's."""
    if not isinstance(value, tuple):
        return value
    kind, *rest = value
    if kind == _DESCRIPTOR:
        return Descriptor(descriptors[cast(int, rest[0])])
    if kind == _BUFFER:
        return rest[0]
    if kind == _TUPLE:
        return tuple(decode(item, descriptors) for item in rest)
    if kind == _MAPPING:
        items = [decode(item, descriptors) for item in rest]
        return dict(zip(items[::2], items[1::2], strict=True))
    made = _class(cast(str, rest[0]))
    names = cast(type[_Fields], made)._fields
    return made(**dict(zip(names, (decode(item, descriptors) for item in rest[1:]), strict=True)))


def _class(name: str) -> type:
    home = _HOMES[name]
    __import__(home)  # importlib's function would import warnings
    found: type = getattr(sys.modules[home], name)
    return found

"""An initramfs archive: cpio in the "newc" form that the kernel unpacks (Documentation/.../initramfs buffer-format).

The bytes depend on the entries only: no clock, no owner, no inode of the host.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_MAGIC = "070701"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, folder or device node, owned by root.

    :param name: path without a leading slash; its folders have to come before it.
    :param mode: type and permission bits.
    :param data: bytes of a regular file.
    :param device: (major, minor) of a device node.
    """

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(name: str, mode: int = 0o755) -> Entry:
    """Return a folder."""
    return Entry(name, stat.S_IFDIR | mode)


def file(name: str, data: bytes, mode: int = 0o644) -> Entry:
    """Return a regular file."""
    return Entry(name, stat.S_IFREG | mode, data)


def character_device(name: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """Return a character device node."""
    return Entry(name, stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yield the archive's bytes, in pieces."""
    number = 0
    for number, entry in enumerate(entries, 1):
        yield from _record(number, entry)
    yield from _record(number + 1, Entry("TRAILER!!!", 0))


def _record(number: int, entry: Entry) -> Iterator[bytes]:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = (_MAGIC + "".join(f"{value:08x}" for value in fields)).encode() + name
    yield header + bytes(-len(header) % 4)
    if entry.data:
        yield entry.data
        yield bytes(-len(entry.data) % 4)

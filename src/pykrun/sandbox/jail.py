"""What a program that runs guest code gets to see, and how isolated it turned out to be."""

from __future__ import annotations

from pathlib import Path
from socket import socket

from pykrun.record import field, record

FILES = "/files/"
"""Where the jail's read-only files are, as the program's arguments name them."""

WORK = "/room/"
"""The only place that the program can write: a tmpfs of its own, or a private temporary folder."""


@record(frozen=True, slots=True, kw_only=True)
class Jail:
    """A program and everything it may touch.

    :param program: the executable on the host.
    :param arguments: argv. `FILES + name` and `WORK + name` are understood, wherever they turn out to be.
    :param libraries: host files and folders that appear read-only at their own path.
    :param files: name below `FILES` -> host file, read-only.
    :param images: name below `FILES` -> absolute path of a host file or block device that the program may write too,
        and a descriptor of it: what is there now must still be that.
    :param devices: names in /dev beside null, zero and urandom.
    :param listeners: name below `WORK` -> unbound AF_UNIX stream socket that is bound there and listens.
    :param connected: name of a listener -> AF_UNIX stream socket that is connected to it: the supervisor's way to a
        program that listens.
    :param descriptors: what becomes descriptor 0, 1, 2, 3, ... of the program; it gets no others.
    :param folders: folders to make below `WORK`.
    :param room: bytes that the program may write below `WORK`, memory files included.
    :param identity: user and group that the program gets where root starts it, because it has to open files of theirs;
        None for an id that owns nothing.
    :param randomize: address space randomisation.
    :param denied: system calls to deny beside those that every engine is denied.
    """

    program: Path
    arguments: tuple[str, ...]
    libraries: tuple[str, ...]
    files: dict[str, Path] = field(default_factory=dict)
    images: dict[str, tuple[str, int]] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    listeners: dict[str, socket] = field(default_factory=dict)
    connected: dict[str, socket] = field(default_factory=dict)
    descriptors: tuple[int, ...]
    folders: tuple[str, ...] = ()
    room: int = 1 << 20
    identity: tuple[int, int] | None = None
    randomize: bool = True
    denied: tuple[str, ...] = ()


NAMESPACES = "namespaces"
USER_NAMESPACE = "user-namespace"
FOLDER = "folder"
LANDLOCK = "landlock"
REDUCED = "reduced"
LEVELS = {
    NAMESPACES: "own namespaces and root, an id that owns nothing, no capabilities, system-call filter",
    USER_NAMESPACE: "own namespaces and root, the caller's id without rights over anything, system-call filter",
    FOLDER: "own namespaces, the shared folder as root, no rights but those over files, system-call filter",
    LANDLOCK: "no namespaces; opens and changes no files outside the shared folder (Landlock), system-call filter",
    REDUCED: "no namespaces: a process without privileges that sees what its user sees, system-call filter",
}


@record(frozen=True, slots=True)
class Isolation:
    """How isolated a program is.

    :param level: a key of `LEVELS`.
    :param note: why it is not more, or empty.
    """

    level: str
    note: str = ""

    @property
    def description(self) -> str:
        """One line for people."""
        return LEVELS[self.level] + (f" ({self.note})" if self.note else "")

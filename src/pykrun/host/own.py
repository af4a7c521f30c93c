"""Our own open files as paths: the way from an O_PATH descriptor to what only paths can do.

`/proc/self/fd/N` is a magic link: it leads to the very file that N refers to, wherever that is by now and whatever
carries its old name.
"""

from __future__ import annotations

import os


class OwnDescriptors:
    """Where this process' descriptors are files.

    Held is the root of the proc file system, not a folder of it: "self" is then whoever asks. After a fork, another
    process' table would lead to other files.

    :param proc: a path of that; with "." it is the working directory, and stays it.
    :raise OSError: there is no /proc.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self.root = os.open(proc, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._prefix = b"self/fd/%d" if proc == "." else os.fsencode(proc) + b"/self/fd/%d"

    def name(self, descriptor: int) -> bytes:
        """Name a descriptor, to be used with `root` as the directory."""
        return b"self/fd/%d" % descriptor

    def path(self, descriptor: int) -> bytes:
        """Name a descriptor by a path, for calls that take no directory (extended attributes)."""
        return self._prefix % descriptor

    def enter(self) -> None:
        """Make the proc file system the working directory, where /proc is going to be out of reach."""
        os.fchdir(self.root)
        self._prefix = b"self/fd/%d"

    def reopen(self, descriptor: int, flags: int) -> int:
        """Open the file that an O_PATH descriptor refers to."""
        return os.open(b"self/fd/%d" % descriptor, flags | os.O_CLOEXEC, dir_fd=self.root)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.root)

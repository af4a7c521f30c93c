"""Descriptors that a guest hands to another device of its VM: a table shared by whoever serves them."""

from __future__ import annotations

import os
from _thread import allocate_lock  # threading takes a millisecond to import


class ExportTable:
    """Duplicates of open files, by file system and handle. Thread safe.

    :param limit: how many there may be; a guest must not be able to use up the host's descriptors.
    """

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._lock = allocate_lock()
        self._files: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._files)

    def add(self, file_system: int, handle: int, descriptor: int) -> bool:
        """Keep a duplicate; return False when the table is full. A handle that is there already stays as it is.

        :raise OSError: EMFILE.
        """
        key = (file_system, handle)
        with self._lock:
            if key not in self._files:
                if len(self._files) >= self._limit:
                    return False
                self._files[key] = os.dup(descriptor)
        return True

    def get(self, file_system: int, handle: int) -> int | None:
        """Return a duplicate of the descriptor, for the caller to close; None when there is no such export.

        :raise OSError: EMFILE.
        """
        with self._lock:
            descriptor = self._files.get((file_system, handle))
            return None if descriptor is None else os.dup(descriptor)

    def remove(self, file_system: int, handle: int) -> None:
        """Close the table's duplicate, if there is one."""
        with self._lock:
            descriptor = self._files.pop((file_system, handle), None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            files, self._files = self._files, {}
        for descriptor in files.values():
            os.close(descriptor)

"""Inode numbers of the protocol: one counter per device, shared by every layer."""

from __future__ import annotations

from itertools import count


class InodeAllocator:
    """Hands out 2, 3, 4, ...; never 0 (no inode) and never 1 (the root). No number comes twice. Thread safe."""

    def __init__(self) -> None:
        self._numbers = count(2)

    def allocate(self) -> int:
        """Hand out the next number."""
        return next(self._numbers)  # one call into C: atomic under the interpreter lock

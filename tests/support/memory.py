"""Looking for bytes in the memory of other processes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

CHUNK = 4 << 20
LARGEST = 64 << 20
"""Larger mappings are a guest's memory: not looked at, since reading would make its pages exist."""


def _mappings(pid: int) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split()
        start, end = (int(word, 16) for word in words[0].split("-"))
        if words[1].startswith("r") and not words[-1].startswith("[v") and end - start <= LARGEST:
            yield start, end


def found_in_memory(pid: int, needles: Collection[bytes]) -> set[bytes]:
    """Which of `needles` lie in the process's own memory.

    :raise PermissionError: the kernel does not let us look.
    """
    found: set[bytes] = set()
    longest = max(map(len, needles))
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end in _mappings(pid):
            for position in range(start, end, CHUNK):
                try:
                    memory.seek(position)
                    content = memory.read(min(CHUNK + longest, end - position))
                except (OSError, OverflowError):
                    break  # a mapping that went away, or of a device
                found |= {needle for needle in needles if needle in content}
    return found

"""Moving bytes between memory and lists of buffers, and making memory forget them."""

from __future__ import annotations

from collections.abc import Sequence

Bytes = bytes | bytearray | memoryview


def scatter(data: Bytes, buffers: Sequence[memoryview]) -> int:
    """Copy `data` into the buffers from the first one's start; return how many bytes found room."""
    rest = memoryview(data)
    done = 0
    for buffer in buffers:
        room = len(buffer)
        if room >= len(rest):
            buffer[: len(rest)] = rest
            return done + len(rest)
        buffer[:] = rest[:room]
        rest = rest[room:]
        done += room
    return done


def skip(buffers: Sequence[memoryview], count: int) -> list[memoryview]:
    """Leave out the first `count` bytes, without copying."""
    for index, buffer in enumerate(buffers):
        if count < len(buffer):
            return [buffer[count:], *buffers[index + 1 :]] if count else list(buffers[index:])
        count -= len(buffer)
    return []


def wipe(view: memoryview) -> None:
    """Overwrite with zeros, in pieces: a second buffer as large as the first would be a waste."""
    zeros = bytes(min(len(view), 1 << 16))
    for start in range(0, len(view), len(zeros) or 1):
        part = view[start : start + len(zeros)]
        part[:] = zeros[: len(part)]


def clip(buffers: Sequence[memoryview], size: int) -> list[memoryview]:
    """Keep only the first `size` bytes, without copying."""
    kept = []
    for buffer in buffers:
        if size <= 0:
            break
        kept.append(buffer if len(buffer) <= size else buffer[:size])
        size -= len(buffer)
    return kept

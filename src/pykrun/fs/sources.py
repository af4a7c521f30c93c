"""Where the bytes of a virtual file come from: memory, a file of the host, a callable.

A source knows its size once it was opened, fills buffers, and can be dropped. One belongs to one virtual file.
"""

from __future__ import annotations

import os
from _thread import allocate_lock  # threading takes a millisecond to import
from collections.abc import Callable, Sequence
from errno import EINVAL, EIO, ESTALE
from mmap import mmap
from stat import S_ISREG
from typing import Protocol, runtime_checkable

from pykrun.buffers import clip, scatter, skip, wipe
from pykrun.fs.types import errno_error

BytesLike = bytes | bytearray | memoryview | mmap


@runtime_checkable
class Source(Protocol):
    """What a virtual file asks of its bytes."""

    def open(self) -> int:
        """Make the bytes ready, if they are not, and return their number, which is fixed from then on.

        :raise OSError: EIO when they cannot be had.
        """

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers from `offset`; return the number of bytes, 0 past the end."""

    def drop(self) -> None:
        """Let go of the bytes for good; harmless when done twice."""


class MemorySource:
    """Bytes in memory; never copied but into the guest, so whoever owns them keeps them unchanged.

    :param data: any contiguous buffer. A mapping of a host file kills the process when that file shrinks: take
        `FileSource` for files.
    :param wipe: the buffer is writable and pykrun's own: overwrite it with zeros when it is dropped.
    """

    def __init__(self, data: BytesLike, *, wipe: bool = False) -> None:
        self._view: memoryview | None = memoryview(data).cast("B")
        self._size = len(self._view)
        self._wipe = wipe
        if wipe and self._view.readonly:
            raise ValueError("only a writable buffer can be wiped")

    def open(self) -> int:
        """Tell the size."""
        return self._size

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Copy into the buffers."""
        view = self._view
        if view is None:
            raise errno_error(ESTALE)
        if len(buffers) == 1:  # the usual case, and twice as fast without the loop
            buffer = buffers[0]
            data = view[offset : offset + len(buffer)]
            count = len(data)
            if count == len(buffer):
                buffer[:] = data
            else:
                buffer[:count] = data
            return count
        for index, buffer in enumerate(buffers):
            end = offset + len(buffer)
            if end > self._size:
                return sum(map(len, buffers[:index])) + scatter(view[offset:], buffers[index:])
            buffer[:] = view[offset:end]
            offset = end
        return sum(map(len, buffers))

    def drop(self) -> None:
        """Wipe, if that was asked for, and release."""
        view, self._view = self._view, None
        if view is None:
            return
        if self._wipe:
            wipe(view)
        # A view that some reader still holds keeps the buffer; what it sees is gone or wiped.
        del view


class FileSource:
    """A regular file of the host, read as the guest reads; its size is fixed when this object is made.

    If the file shrinks, reads end early.

    :param descriptor: open for reading; duplicated, so the caller may close theirs.
    :param own: take the caller's descriptor instead, and close it when this object is dropped or cannot be made.
    :raise OSError: EINVAL when it is no regular file (a FIFO would hang the server).
    """

    def __init__(self, descriptor: int, *, own: bool = False) -> None:
        status = os.fstat(descriptor)
        if not S_ISREG(status.st_mode):
            if own:
                os.close(descriptor)
            raise OSError(EINVAL, "only a regular file can lie behind a virtual one")
        self._size = status.st_size
        self._descriptor = descriptor if own else os.dup(descriptor)

    @classmethod
    def of_path(cls, path: str | bytes | os.PathLike[str]) -> FileSource:
        """Open the file at `path`.

        :raise OSError: as open(2), and EINVAL when it is no regular file.
        """
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), own=True)

    def open(self) -> int:
        """Tell the size."""
        return self._size

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Read straight into the buffers."""
        if self._descriptor < 0:
            raise errno_error(ESTALE)
        rest = self._size - offset
        if rest <= 0:
            return 0
        return _preadv(self._descriptor, clip(buffers, rest), offset)

    def drop(self) -> None:
        """Close the descriptor."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


_IOV_MAX = 1024


def _preadv(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
    """Read until the buffers are full or the file ends: a short reply would look like the file's end to the guest."""
    done = 0
    wanted = sum(map(len, buffers))
    rest: Sequence[memoryview] = buffers
    while done < wanted:
        count = os.preadv(descriptor, rest[:_IOV_MAX], offset + done)
        if count == 0:
            break
        done += count
        if done < wanted:
            rest = skip(buffers, done)
    return done


class LazySource:
    """Bytes that a callable makes when the guest first looks the file up (or opens it).

    The callable runs once, in the thread that serves the guest. When it raises, the file answers EIO for good.
    """

    def __init__(self, produce: Callable[[], BytesLike | Source]) -> None:
        self._produce: Callable[[], BytesLike | Source] | None = produce
        self._source: Source | None = None
        self._lock = allocate_lock()

    def open(self) -> int:
        """Run the callable if it has not run; tell the size.

        :raise OSError: EIO when the callable raised.
        """
        with self._lock:
            produce, self._produce = self._produce, None
            if produce is not None:
                try:
                    self._source = as_source(produce())
                except Exception as error:
                    raise OSError(EIO, f"the content of a virtual file could not be made: {error!r}") from error
        if self._source is None:
            raise errno_error(EIO)
        return self._source.open()

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill from what the callable made."""
        if self._source is None:
            raise errno_error(EIO)
        return self._source.read_into(offset, buffers)

    def drop(self) -> None:
        """Drop what the callable made, or the callable."""
        self._produce = None
        source, self._source = self._source, None
        if source is not None:
            source.drop()


Content = BytesLike | Source | Callable[[], BytesLike | Source]
"""What may be given as the content of a virtual file."""


def as_source(content: Content) -> Source:
    """Turn bytes, a callable or a source into a source.

    :raise TypeError: it is none of these.
    """
    if isinstance(content, BytesLike):
        return MemorySource(content)
    if isinstance(content, Source):
        return content
    if callable(content):
        return LazySource(content)
    raise TypeError(f"the content of a virtual file cannot be {type(content).__name__}")

"""The three standard streams of a command: what the caller says, and the pipes that come of it."""

from __future__ import annotations

import codecs
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any

from pykrun.api.options import Stream
from pykrun.errors import UsageError
from pykrun.record import replace
from pykrun.request import Descriptor, Request

NAMES = ("stdin", "stdout", "stderr")
OnLine = Callable[[Any], None]
LONGEST_LINE = 1 << 20
"""Bytes of a line that are kept until its end comes."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How bytes become text, as in subprocess; `name` None leaves them bytes."""

    name: str | None = None
    errors: str = "strict"

    @classmethod
    def choose(cls, text: bool, encoding: str | None, errors: str | None) -> Encoding:
        """Read subprocess's three words.

        :raise UsageError: Python knows no such encoding, or no such way with errors.
        """
        if not (text or encoding or errors):
            return cls()
        chosen = cls(encoding or "utf-8", errors or "strict")
        try:
            "a".encode(chosen.name)  # type: ignore[arg-type]  # which refuses codecs that are for no text, as hex
        except (LookupError, TypeError, ValueError):
            raise UsageError(f"there is no encoding {encoding!r}", "for texts, as utf-8 or latin-1") from None
        try:
            codecs.lookup_error(chosen.errors)
        except (LookupError, TypeError, ValueError):
            hint = "strict, replace, ignore, surrogateescape, backslashreplace"
            raise UsageError(f"errors cannot be {errors!r}", hint) from None
        return chosen

    def decode(self, data: bytes, *, cut: bool = False) -> Any:
        """Bytes, or the text that they are, with every line's end a newline.

        :param cut: the data may end anywhere, in the midst of a character too.
        """
        if self.name is None:
            return data
        text = data.decode(self.name, "replace" if cut and self.errors == "strict" else self.errors)
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def whole(self, data: bytes) -> int:
        """How many of these bytes to decode, if more follow: not the beginning of a character at their end."""
        if self.name is None:
            return len(data)
        try:
            decoder = codecs.getincrementaldecoder(self.name)("replace")
            decoder.decode(data)
        except (LookupError, ValueError):  # one that has no such thing
            return len(data)
        return len(data) - len(decoder.getstate()[0]) or len(data)

    def encode(self, data: Any) -> bytes | memoryview:
        """The bytes of what the caller gives."""
        if isinstance(data, str):
            return data.encode(self.name or "utf-8", self.errors)
        if not isinstance(data, bytes | bytearray | memoryview):
            raise UsageError(f"input is bytes or text, not {data!r}")
        return memoryview(data).cast("B")

    def open(self, descriptor: int, mode: str) -> IO[Any]:
        """A file object of our end of a pipe."""
        if self.name is None:
            return os.fdopen(descriptor, f"{mode}b")
        raw = os.fdopen(descriptor, f"{mode}b")
        return io.TextIOWrapper(raw, self.name, self.errors, write_through=True)


class Streams:
    """The descriptors that the VM gets, and our ends of the pipes. Use as a context: it closes what was not taken.

    :raise UsageError: a stream is nothing that a stream can be.
    """

    def __init__(self, stdin: Stream, stdout: Stream, stderr: Stream) -> None:
        self.ours: dict[str, int] = {}
        self._stack = ExitStack()
        try:
            theirs = [self._choose(*item) for item in zip(NAMES, (stdin, stdout, stderr), strict=True)]
        except BaseException:
            self._stack.close()
            self._close_ours()
            raise
        output = theirs[1]
        self._theirs = [output if number is None else number for number in theirs]

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._close_ours()

    def put_into(self, request: Request) -> Request:
        """Return the request with these streams."""
        stdin, stdout, stderr = map(_place, self._theirs)
        return replace(request, stdin=stdin, stdout=stdout, stderr=stderr)

    def numbers(self) -> list[int | None]:
        """The VM's descriptors of the three; None for one that is closed here."""
        places = map(_place, self._theirs)
        return [None if place is None else place.number for place in places]

    def take(self, name: str) -> int | None:
        """Take our end of that pipe; None when it is none."""
        return self.ours.pop(name, None)

    def _choose(self, name: str, wanted: Stream) -> int | None:
        """Return the VM's descriptor; None for that of standard output."""
        if wanted is None:
            return NAMES.index(name)
        if wanted == subprocess.PIPE:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            theirs, self.ours[name] = (reading, writing) if name == "stdin" else (writing, reading)
            self._stack.callback(os.close, theirs)
            return theirs
        if wanted == subprocess.DEVNULL:
            descriptor = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            self._stack.callback(os.close, descriptor)
            return descriptor
        if wanted == subprocess.STDOUT:
            if name != "stderr":
                raise UsageError(f"{name} cannot be STDOUT", "only stderr can go where stdout goes")
            return None
        try:
            number = wanted if isinstance(wanted, int) else wanted.fileno()
            os.fstat(number)
        except (AttributeError, OSError, ValueError):  # no file, none of the kernel's, or closed
            hint = "PIPE, DEVNULL, STDOUT, a descriptor, or an open file"
            raise UsageError(f"{name} cannot be {wanted!r}", hint) from None
        return number

    def _close_ours(self) -> None:
        for descriptor in self.ours.values():
            os.close(descriptor)
        self.ours.clear()


class Lines:
    """Cuts what arrives into lines, with their ends, and hands each on; the rest at the end.

    A line longer than `LONGEST_LINE` comes in pieces. What a function raises for one line, or a line that cannot be
    decoded, is told by `threading.excepthook`, and the next line follows.
    """

    def __init__(self, encoding: Encoding, on_line: OnLine) -> None:
        self._encoding = encoding
        self._on_line = on_line
        self._rest = bytearray()

    def __call__(self, data: bytes) -> None:
        """Take some bytes; b"" is the end."""
        start = 0
        while end := data.find(b"\n", start) + 1:
            self._take(data[start:end])
            self._flush()
            start = end
        self._take(data[start:])
        if not data and self._rest:
            self._flush()

    def _take(self, data: bytes) -> None:
        """Keep a part of a line, and hand on what is more than may be kept."""
        self._rest += data
        while len(self._rest) > LONGEST_LINE:
            self._flush(self._encoding.whole(bytes(self._rest[:LONGEST_LINE])))

    def _flush(self, size: int | None = None) -> None:
        line = bytes(self._rest[:size])
        del self._rest[:size]
        try:
            self._on_line(self._encoding.decode(line))
        except BaseException:  # the caller's function, whose mistake must not be the end of who calls it
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


def _place(descriptor: int | None) -> Descriptor | None:
    """The descriptor, unless it is closed: a program may be started without its standard streams."""
    try:
        if descriptor is not None:
            os.fstat(descriptor)
            return Descriptor(descriptor)
    except OSError:
        pass
    return None

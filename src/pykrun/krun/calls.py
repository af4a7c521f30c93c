"""What every function of the API has in common: one lock, errors as negative numbers, arguments checked.

A function never raises for what a C program could do wrong: inside, a `Refusal` says which errno and why, and outside
that is a negative number and one line of the log. What does raise is what a C compiler would not accept, a call with
the wrong number of arguments.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from threading import RLock

from pykrun.krun.messages import ERROR, WARNING, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ParamSpec

    P = ParamSpec("P")

Text = str | bytes | None
"""A `const char *`."""
Texts = Sequence[str | bytes | None] | None
"""A `const char *const []`: ends at the first None, or where it ends."""
Buffer = bytes | bytearray | memoryview | None
"""A pointer to data."""

MAX_ENTRIES = 4096
"""Of an array of strings."""

LOCK = RLock()
"""Held while a context is read or changed."""


def _new_lock() -> None:
    """In a forked child, where a thread that is not there may have held the lock."""
    global LOCK
    LOCK = RLock()


os.register_at_fork(after_in_child=_new_lock)


class Refusal(Exception):
    """A function cannot do what it was asked for.

    :param number: the errno, positive.
    :param text: why, for the log.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


def call(function: Callable[P, int]) -> Callable[P, int]:
    """Make a function one of the API's: under the lock, and with a negative errno for a `Refusal`."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            with LOCK:
                return function(*args, **kwargs)
        except Exception as error:
            if isinstance(error, TypeError) and error.__traceback__ and error.__traceback__.tb_next is None:
                raise  # not from inside: the call itself does not fit
            return failure(function.__name__, error)

    return called


def failure(name: str, error: Exception) -> int:
    """Log why a function fails, and return its negative errno."""
    if isinstance(error, Refusal):
        tell(ERROR, "%s: %s: %s", name, errno.errorcode.get(error.number, error.number), error)
        return -error.number
    if isinstance(error, OSError) and error.errno:
        tell(ERROR, "%s: %s", name, error)
        return -error.errno
    tell(ERROR, "%s: %r", name, error, exc_info=error)
    return -errno.EINVAL


def unsupported(name: str, why: str) -> int:
    """Log that a function of libkrun is none of ours, and why; return -ENOTSUP."""
    tell(WARNING, "%s is not supported: %s", name, why)
    return -errno.ENOTSUP


def text(name: str, value: Text) -> str:
    """Return a string argument.

    :raise Refusal: EINVAL: it is None, no text, not UTF-8, or has a NUL.
    """
    if value is None:
        raise Refusal(errno.EINVAL, f"{name} is NULL")
    if not isinstance(value, str | bytes):
        raise Refusal(errno.EINVAL, f"{name} is no text")
    try:
        found = value if isinstance(value, str) else value.decode()
        if not found.isascii():
            found.encode()  # which a lone surrogate does not survive
    except UnicodeError:
        raise Refusal(errno.EINVAL, f"{name} is not UTF-8 text") from None
    if "\0" in found:
        raise Refusal(errno.EINVAL, f"{name} has a NUL in it")
    return found


def optional_text(name: str, value: Text) -> str | None:
    """Return a string argument that may be None.

    :raise Refusal: EINVAL, see `text`.
    """
    return None if value is None else text(name, value)


def texts(name: str, values: Texts) -> list[str]:
    """Return an array of strings: what stands before the first None.

    :raise Refusal: EINVAL: it is None or no array, has more than 4096 entries, or one that is no UTF-8 text.
    """
    if values is None:
        raise Refusal(errno.EINVAL, f"{name} is NULL")
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise Refusal(errno.EINVAL, f"{name} is no array")
    entry = f"an entry of {name}"
    found: list[str] = []
    for value in values:
        if value is None:
            break
        found.append(text(entry, value))
        if len(found) > MAX_ENTRIES:
            raise Refusal(errno.EINVAL, f"{name} has more than {MAX_ENTRIES} entries")
    return found


def number(name: str, value: int, bits: int = 32) -> int:
    """Return an unsigned argument of so many bits.

    :raise Refusal: EINVAL: it does not fit.
    """
    if not isinstance(value, int) or not 0 <= value < 1 << bits:
        raise Refusal(errno.EINVAL, f"{name} is no number of {bits} bits: {value!r}")
    return int(value)


def descriptor(name: str, value: int) -> int:
    """Return a descriptor, or -1 for any negative number.

    :raise Refusal: EINVAL: it is no number.
    """
    if not isinstance(value, int) or value >= 1 << 31:
        raise Refusal(errno.EINVAL, f"{name} is no descriptor: {value!r}")
    return max(-1, value)


def buffer(name: str, value: Buffer, length: int) -> memoryview:
    """Return the first `length` bytes of a data argument, by reference.

    :raise Refusal: EINVAL: it is None (and `length` is not 0), no buffer, or shorter.
    """
    size = number(f"the length of {name}", length, 64)
    if size == 0:
        return memoryview(b"")
    if value is None:
        raise Refusal(errno.EINVAL, f"{name} is NULL")
    try:
        view = memoryview(value).cast("B")
    except TypeError:
        raise Refusal(errno.EINVAL, f"{name} is no buffer of bytes") from None
    if len(view) < size:
        raise Refusal(errno.EINVAL, f"{name} has {len(view)} bytes, not {size}")
    return view[:size].toreadonly()

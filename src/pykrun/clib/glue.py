"""From C to Python: each function of the library calls the one of its name in `pykrun.krun`.

This runs in a C program's process. Whatever happens, the program gets a number: 0 only if the function said so.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself would import enum
import errno
import os
import sys

from pykrun import krun
from pykrun.krun.messages import ERROR, tell

TYPE_CHECKING = False  # typing's own would import typing: every program that loads the library waits for this module
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    Convert = Callable[[tuple[Any, ...], int], Any]
    """Takes all arguments and the index of one; returns what Python is to get for it."""

FAILED = -errno.EIO
"""What a function returns when Python raised: never 0."""

MOST = 4096
"""Entries of an array. One more is read, for `pykrun.krun` to refuse."""

SIGNALS = [number for number in range(1, 32) if number not in (_signal.SIGKILL, _signal.SIGSTOP)]
NUMBERS = range(-(1 << 31), 1 << 31)
ENVIRONMENT_READERS = (
    "krun_create_ctx",
    "krun_init_log",
    "krun_set_log_level",
    "krun_get_default_init",
    "krun_start_enter",
)


class _Unfit(Exception):
    """An argument that Python cannot be given."""


def install(ffi: Any, lib: Any, signatures: Mapping[str, tuple[str, ...]]) -> None:
    """Make the library's functions lead here. Called once, when it is loaded, by the thread that loads it.

    :param ffi: of the module that cffi made; `lib` is its functions in C.
    :param signatures: each function's name, and the kinds of its parameters (`pykrun.clib.abi`).
    """
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # importing it has set that; this is a C program
    glue = _Glue(ffi, lib)
    for name, kinds in signatures.items():
        ffi.def_extern(name=name, error=FAILED)(glue.wrap(name, kinds))


class _Glue:
    """What a converter needs of cffi."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        self._ffi = ffi
        self._lib = lib
        self._init: Any = None

    def wrap(self, name: str, kinds: tuple[str, ...]) -> Callable[..., int]:
        """Return the function that C calls."""
        if name == "krun_get_default_init":
            return self._guarded(name, self._get_default_init)
        api: Callable[..., int] = getattr(krun, name)
        if name == "krun_start_enter":
            return self._guarded(name, lambda ctx_id: self._start_enter(api, ctx_id))
        converters: list[Convert | None] = [getattr(self, f"_to_{kind}", None) for kind in kinds]
        if not any(converters):
            return self._guarded(name, api)

        def convert(*values: Any) -> int:
            return api(
                *[
                    value if converter is None else converter(values, index)
                    for index, (converter, value) in enumerate(zip(converters, values, strict=True))
                ]
            )

        return self._guarded(name, convert)

    def _guarded(self, name: str, function: Callable[..., int]) -> Callable[..., int]:
        """Let nothing but a number out."""
        reads_environment = name in ENVIRONMENT_READERS

        def entered(*values: Any) -> int:
            try:
                if reads_environment:
                    self._refresh_environment()
                result = function(*values)
                if result in NUMBERS:
                    return result
                raise OverflowError(f"the result {result!r} is no int32_t")
            except _Unfit as unfit:
                tell(ERROR, "%s: EINVAL: %s", name, unfit)
                return -errno.EINVAL
            except SystemExit as end:
                _leave(end)
            except BaseException as error:
                try:
                    tell(
                        ERROR,
                        "%s failed; this is a bug: %r",
                        name,
                        error,
                        exc_info=error if isinstance(error, Exception) else None,
                    )
                except BaseException:
                    pass  # a log that cannot be written changes nothing
            return FAILED

        return entered

    # ---- arguments

    def _to_text(self, values: tuple[Any, ...], index: int) -> bytes | None:
        value = values[index]
        return self._ffi.string(value) if value else None

    def _to_texts(self, values: tuple[Any, ...], index: int) -> list[bytes] | None:
        array = values[index]
        if not array:
            return None
        string = self._ffi.string
        found = []
        for position in range(MOST + 1):
            entry = array[position]
            if not entry:
                break
            found.append(string(entry))
        return found

    def _to_environment(self, values: tuple[Any, ...], index: int) -> list[bytes] | None:
        if not values[index]:
            self._refresh_environment()
        return self._to_texts(values, index)

    def _to_mac(self, values: tuple[Any, ...], index: int) -> memoryview | None:
        value = values[index]
        return memoryview(self._ffi.buffer(value, 6)) if value else None

    def _to_data(self, values: tuple[Any, ...], index: int) -> memoryview | None:
        value, length = values[index], values[index + 1]
        if not value:
            return None
        if length > sys.maxsize:
            raise _Unfit(f"there are no {length} bytes")
        return memoryview(self._ffi.buffer(value, length)).toreadonly()

    def _to_sizes(self, values: tuple[Any, ...], index: int) -> list[int] | None:
        value, count = values[index], values[index - 1]
        if not value:
            return None
        if count:
            return [value[position] for position in range(count)]
        found: list[int] = []
        while len(found) <= MOST and value[len(found)]:
            found.append(value[len(found)])
        return found

    # ---- functions that are more than their arguments

    def _get_default_init(self, data_out: Any, len_out: Any) -> int:
        if not data_out or not len_out:
            raise _Unfit("an address for the result is NULL")
        if self._init is None:
            status, view = krun.krun_get_default_init()
            if status != 0:
                return status
            self._init = self._ffi.from_buffer("uint8_t[]", view)  # held, so that the bytes stay where they are
        data_out[0] = self._init
        len_out[0] = len(self._init)
        return 0

    def _start_enter(self, api: Callable[[int], int], ctx_id: int) -> int:
        """The one call that may have handlers of signals: they are gone again if it returns."""
        self._lib.krunlib_save_signals()
        try:
            self._learn_signals()
            return api(ctx_id)
        finally:
            self._lib.krunlib_restore_signals()

    def _learn_signals(self) -> None:
        """Let Python see which signals are the program's: it knows only of what it has set itself.

        A signal that the program handles looks ignored to Python, and so is left alone.
        """
        old = _signal.pthread_sigmask(_signal.SIG_BLOCK, SIGNALS)  # none is lost meanwhile
        try:
            for number in SIGNALS:
                looks = _signal.SIG_IGN if self._lib.krunlib_is_handled(number) else _signal.SIG_DFL
                if _signal.getsignal(number) is not looks:
                    _signal.signal(number, looks)
        except ValueError:
            pass  # not the thread that loaded the library: Python handles no signals here
        finally:
            self._lib.krunlib_restore_signals()
            _signal.pthread_sigmask(_signal.SIG_SETMASK, old)

    def _refresh_environment(self) -> None:
        """Make os.environ what getenv(3) of the program sees: Python made its copy when it started."""
        entries = []
        environ = self._lib.environ
        position = 0
        while environ and environ[position]:
            entries.append(self._ffi.string(environ[position]))
            position += 1
        copy = os.environ._data  # type: ignore[attr-defined]  # assigning to os.environ would call setenv(3)
        copy.clear()
        for entry in entries:
            name, equals, value = entry.partition(b"=")
            if name and equals:
                copy.setdefault(name, value)


def _leave(end: SystemExit) -> NoReturn:
    """End as Python would, but at once: cffi would swallow the exception."""
    if end.code is None or isinstance(end.code, int):
        os._exit((end.code or 0) & 0xFF)
    os.write(2, f"libkrun: {end.code}\n".encode(errors="replace"))
    os._exit(1)

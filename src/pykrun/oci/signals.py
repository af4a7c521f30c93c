"""Signals by name or number, as a command line names them."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself would import enum

from pykrun.errors import UsageError


def number_of(word: str) -> int:
    """Return the number of `9`, `KILL`, `SIGKILL` or `sigkill`.

    :raise UsageError: there is no such signal.
    """
    if word.isascii() and word.isdigit() and len(word) < 4:
        number = int(word)
    else:
        name = "SIG" + word.upper().removeprefix("SIG")
        number = _real_time(name) or getattr(_signal, name, 0)
    if not 1 <= number <= _signal.SIGRTMAX:
        raise UsageError(f"unknown signal {word!r}", "a number, or a name as in SIGTERM or TERM")
    return number


def _real_time(name: str) -> int:
    """The number of SIGRTMIN+n or SIGRTMAX-n, 0 for others."""
    for base, sign, step in (("SIGRTMIN", "+", 1), ("SIGRTMAX", "-", -1)):
        rest = name.removeprefix(base + sign)
        if rest != name and rest.isdigit() and len(rest) < 3:
            return int(getattr(_signal, base)) + step * int(rest)
    return 0

"""The log's two functions: how loud it is, where it goes."""

from __future__ import annotations

import errno
import os

from pykrun.krun.calls import Refusal, call, descriptor, number

NAMES = ("off", "error", "warn", "info", "debug", "trace")
TRACE = 5
STYLES = ("auto", "always", "never")
STDERR, NO_ENV = -1, 1


@call
def krun_set_log_level(level: int) -> int:
    """Log what is at least that important: 0 nothing, 1 errors, 2 warnings, 3 information, 4 debug, 5 everything.

    A level above 5 means 5. `RUST_LOG` in the environment overrides it. Lines go to standard error, or, in a Python
    program that has set up its own logging, where that sends them; after `krun_init_log`, where that said.

    :return: 0; -EINVAL: no number of 32 bits; -EBADF: standard error is closed.
    """
    wanted = _from_environment(min(number("level", level), TRACE))
    from pykrun.krun import handler  # imports logging

    handler.listen(wanted)
    return 0


@call
def krun_init_log(target_fd: int, level: int, style: int, options: int) -> int:
    """Log to a descriptor.

    :param target_fd: -1 is standard error; any other but 1 and 2 becomes the log's own, which closes it at its end.
    :param level: see `krun_set_log_level`.
    :param style: colours: 0 on a terminal, 1 always, 2 never.
    :param options: 1: the variables `RUST_LOG` and `RUST_LOG_STYLE` do not override level and style.
    :return: 0; -EINVAL: descriptor 0 or below -1, another style or other options; -EBADF: it is not open.
    """
    target = target_fd
    if not isinstance(target, int) or target < STDERR or target == 0:
        raise Refusal(errno.EINVAL, f"descriptor {target_fd!r} cannot be the log's target")
    descriptor("target_fd", target)
    wanted = min(number("level", level), TRACE)
    if number("style", style) >= len(STYLES):
        raise Refusal(errno.EINVAL, f"there is no style {style}")
    if number("options", options) & ~NO_ENV:
        raise Refusal(errno.EINVAL, f"there are no options {options:#x}")
    colours = STYLES[style]
    if not options & NO_ENV:
        wanted = _from_environment(wanted)
        if os.environ.get("RUST_LOG_STYLE") in STYLES:
            colours = os.environ["RUST_LOG_STYLE"]
    from pykrun.krun import handler  # imports logging

    handler.write_to(2 if target == STDERR else target, wanted, colours, owned=target not in (STDERR, 1, 2))
    return 0


def _from_environment(level: int) -> int:
    """What `RUST_LOG` says: a level, alone or (`pykrun=debug`) for us; else `level`."""
    for word in os.environ.get("RUST_LOG", "").lower().split(","):
        module, separator, value = word.strip().rpartition("=")
        if value in NAMES and (not separator or module in ("pykrun", "krun", "libkrun")):
            level = NAMES.index(value)
    return level

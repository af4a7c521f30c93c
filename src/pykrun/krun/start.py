"""The start, which only returns when it fails, and the way to ask for the end."""

from __future__ import annotations

import errno
import os

from pykrun.krun import calls, context
from pykrun.krun.calls import Refusal, call, failure


@call
def krun_get_shutdown_eventfd(ctx_id: int) -> int:
    """Return an eventfd: a number written to it asks the guest for an orderly end (TERM, a grace, then KILL).

    It is the context's, the same one at each call, and goes on to work while the VM runs. Ask for it before the start.

    :return: the descriptor; -ENOENT: no such context; -EMFILE and the like: there is no room for one.
    """
    found = context.find(ctx_id)
    if found.shutdown < 0:
        found.shutdown = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    return found.shutdown


def krun_start_enter(ctx_id: int) -> int:
    """Start the VM, wait for its end, and end this process with the workload's exit code, by `os._exit`.

    It consumes the context, and takes over standard input, output and error. 125 is an init that could not set up, 126
    a program that is not executable, 127 one that is not there, 128+n a signal.

    :return: only if the VM could not be started: -ENOENT: no such context; -EINVAL: what was asked for cannot be;
        what setgid or setuid say.
    """
    try:
        with calls.LOCK:
            found = context.take(ctx_id)
        try:
            raise Refusal(errno.EINVAL, "there is no start yet")
        finally:
            found.close()
    except Exception as error:
        return failure("krun_start_enter", error)

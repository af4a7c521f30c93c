"""Contexts begin and end."""

from __future__ import annotations

import os

from pykrun.errors import PykrunError
from pykrun.krun import context
from pykrun.krun.calls import call
from pykrun.krun.messages import WARNING, tell
from pykrun.shim import Shim


@call
def krun_create_ctx() -> int:
    """Make a context: the description of one VM, still empty.

    It starts the process that will run the VM. So the caller may change its root, its ids and its directory before the
    start, fork and start in the child, and have threads.

    :return: its id, from 0 on; no id is used twice; -ENOMEM: all ids are used up; -EMFILE: no
        descriptor is free.
    """
    context.reap()
    made = context.Context(nothing=os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
    number = context.add(made)
    made.shim = start_shim()
    return number


@call
def krun_free_ctx(ctx_id: int) -> int:
    """Forget a context.

    :return: 0; -ENOENT: there is none of that id.
    """
    context.take(ctx_id).close()
    context.reap()
    return 0


def start_shim() -> Shim | None:
    """Start the process that will run a VM, in a session of its own: signals reach it through its caller."""
    try:
        return Shim(session=True)
    except (PykrunError, OSError) as error:
        tell(WARNING, "krun_create_ctx: %s", error)
        return None

"""Contexts begin and end."""

from __future__ import annotations

from pykrun.krun import context
from pykrun.krun.calls import call


@call
def krun_create_ctx() -> int:
    """Make a context: the description of one VM, still empty.

    :return: its id, from 0 on; no id is used twice; -ENOMEM: all ids are used up.
    """
    return context.add(context.Context())


@call
def krun_free_ctx(ctx_id: int) -> int:
    """Forget a context.

    :return: 0; -ENOENT: there is none of that id.
    """
    context.take(ctx_id).close()
    return 0

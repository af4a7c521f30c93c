"""The process that goes on when the boot does: it applies a late answer, renews a lease, withdraws one that is over."""

from __future__ import annotations

import posix
import time

from krun_init import _linux
from krun_init.dhcp import apply
from krun_init.dhcp.client import FOREVER, Client, renew
from krun_init.errors import describe, reason_of
from krun_init.log import to_console

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from krun_init.dhcp.client import Lease
    from krun_init.dhcp.link import Link
    from krun_init.dhcp.packet import Reply
    from krun_init.places import Places

PATIENCE = 120.0
"""Seconds to look for a lease. When one was lost: at least so many, and as many as that one had."""

_DESCRIPTORS = "/proc/self/fd"


def start(link: Link, seeker: Client, lease: Lease | None, told: bool, places: Places) -> None:
    """Go on in a child process, which PID 1 reaps as any other.

    It knows only the console: the control port is PID 1's. It ends by itself, by a signal, or with the machine.

    :param seeker: goes on looking when there is no lease yet; the caller closes its own copy.
    :param told: somebody has been told already why there is none.
    :raise OSError: there can be no further process.
    """
    if posix.fork() == 0:
        try:
            _leave(() if lease else seeker.descriptors())
            keep(link, seeker, lease, told, places)
        except OSError as error:
            _warn(link, f"given up: {reason_of(error)}")
        except BaseException as error:
            to_console(describe(error))
        finally:
            posix._exit(0)


def keep(link: Link, seeker: Client, lease: Lease | None, told: bool, places: Places) -> None:
    """Return when there is nothing left to do, or to hope for.

    :raise OSError: the interface is gone, or another client of the guest has taken over.
    """
    patience = PATIENCE
    while True:
        if lease is None:
            lease = seeker.acquire(time.monotonic() + patience)
            seeker.close()
            if lease is None:
                if seeker.refused and not told:
                    _warn(link, f"no lease: {seeker.refused}")
                return
            _install(link, lease.reply, None, places)
        if lease.expires == FOREVER:
            return
        renewed = renew(link, lease)
        if renewed is not None:
            _install(link, renewed.reply, lease.reply, places)
        else:
            apply.withdraw(link, lease.reply)
            _warn(link, "the lease is over and was not renewed: the address is gone")
            patience = max(PATIENCE, float(lease.reply.lease or 0))
            seeker = Client(link)
        lease = renewed


def _install(link: Link, reply: Reply, old: Reply | None, places: Places) -> None:
    trouble = apply.install(link, reply, old, places)
    if trouble:
        _warn(link, "; ".join(trouble))


def _leave(kept: Collection[int]) -> None:
    """Let go of what is PID 1's: its session, its signal mask, its descriptors but the console."""
    posix.setsid()
    _linux.unblock_signals()
    for name in posix.listdir(_DESCRIPTORS):
        if int(name) > 2 and int(name) not in kept:
            try:
                posix.close(int(name))
            except OSError:
                pass  # the list's own


def _warn(link: Link, text: str) -> None:
    to_console(f"DHCP on {link.name}: {text}")

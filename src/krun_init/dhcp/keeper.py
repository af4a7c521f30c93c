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
    from typing import NoReturn

    from krun_init.dhcp.client import Lease
    from krun_init.dhcp.link import Link
    from krun_init.dhcp.packet import Reply
    from krun_init.places import Places

PATIENCE = 120.0
"""Seconds to look for a lease. When one was lost: at least so many, and as many as that one had."""

_DESCRIPTORS = "/proc/self/fd"


class Keeper:
    """What is left to do for an interface when the boot goes on.

    A child process does it, so that it is done whatever becomes of PID 1. To fork costs PID 1 a page fault for
    everything that it touches afterwards: so it is done late, and in most lives of a machine never.

    :param seeker: goes on looking when there is no lease yet.
    :param told: somebody has been told already why there is none.
    """

    def __init__(self, link: Link, seeker: Client, lease: Lease | None, told: bool, places: Places) -> None:
        self._link = link
        self._seeker = seeker
        self._lease = lease
        self._told = told
        self._places = places

    def delay(self) -> float:
        """Seconds until there is something to do."""
        return max(0.0, self._lease.renew - time.monotonic()) if self._lease is not None else 0.0

    def start(self) -> None:
        """Do it in a child process, which PID 1 reaps as any other. Never fails: the console is told.

        The child knows only the console: the control port is PID 1's. It ends by itself, by a signal, or with the
        machine.
        """
        try:
            if posix.fork() == 0:
                self._be_the_child()
        except OSError as error:
            _warn(self._link, f"given up: {reason_of(error)}")
        self._seeker.close()

    def _be_the_child(self) -> NoReturn:
        try:
            _leave(() if self._lease is not None else self._seeker.descriptors())
            keep(self._link, self._seeker, self._lease, self._told, self._places)
        except OSError as error:
            _warn(self._link, f"given up: {reason_of(error)}")
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

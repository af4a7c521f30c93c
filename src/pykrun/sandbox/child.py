"""What every child of the supervisor does on its way into a sandbox: identity, rights, a life bound to its parent's.

Everything here runs in a copy of the supervisor with all signals blocked.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal

from pykrun.host import linux
from pykrun.sandbox.jail import USER_NAMESPACE

NOT_ALLOWED = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.ENOSPC, errno.EUSERS)
"""How a kernel says that it does not allow or know a namespace or mount; anything else is a failure, not a limit."""
PRIVATE_NAMESPACES = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
MOUNT_POINT = "/proc"
"""Where a root of one's own is put together: hides nothing that it may need, no file to bind is below it."""

_INNER_ID = 1000
_UNALLOCATED_IDS = 0x7000_0000  # above every range that distributions or systemd hand out
_NOBODY = 65534


class Refused(Exception):
    """The set-up failed; the text goes to the supervisor."""


def ready(descriptors: tuple[int, ...], timeout: int | None = 0) -> bool:
    """Wait up to `timeout` ms (None: for ever) until one of the descriptors can be read or is at its end."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout))


def say(report: int, line: str) -> None:
    """Send a line up the report pipe."""
    try:
        os.write(report, line.replace("\n", " ").encode("utf-8", "surrogateescape") + b"\n")
    except OSError:
        pass  # nobody is listening any more; the leash will tell


def close_all_but(descriptors: set[int]) -> None:
    """Close every descriptor that is not among these."""
    low = 0
    for descriptor in sorted(descriptors):
        if low < descriptor:  # closerange(0, 0) would close everything
            os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, 1 << 30)


def lead_nowhere(kept: set[int]) -> None:
    """Connect those standard streams that are not to be kept to /dev/null."""
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in {0, 1, 2} - kept:
        os.dup2(nowhere, stream)
    if nowhere > 2:
        os.close(nowhere)


def die_with(supervisor: int) -> None:
    """Be killed when the supervisor dies. The kernel forgets it whenever ids or capabilities change.

    :param supervisor: its pidfd.
    :raise Refused: it is dead already.
    """
    linux.set_parent_death_signal(signal.SIGKILL)
    if ready((supervisor,)):
        raise Refused("the supervisor is gone")


Identity = tuple[int, int] | None
"""User and group to become; None keeps the own ones."""


def choose_identity(level: str, caller: tuple[int, int], wanted: Identity = None) -> Identity:
    """Choose an id that owns nothing, or the wanted one; None where only the own one is to be had.

    In a user namespace that maps no other one, the own id is no privilege.

    :param caller: user and group id of the supervisor; in a new user namespace they cannot be asked for.
    """
    if level == USER_NAMESPACE:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{_INNER_ID} {caller[0]} 1"),
            ("gid_map", f"{_INNER_ID} {caller[1]} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        return None
    return unprivileged_identity(wanted)


def unprivileged_identity(wanted: Identity = None) -> Identity:
    """Choose what a process of root's becomes that is not to be trusted: an id that owns nothing, or the wanted one.

    None: it is not root, or a root that cannot change ids.
    """
    if os.geteuid() != 0 or not _may_change_ids():
        return None
    fresh = _UNALLOCATED_IDS + _host_pid()
    choices = (fresh, fresh), (_NOBODY, _NOBODY)
    for user, group in choices if wanted is None else (wanted,):
        if _is_mapped("uid_map", user) and _is_mapped("gid_map", group):
            return user, group
    return None


def drop_privileges(identity: Identity) -> None:
    """Become nobody in particular, for good: no capabilities, no core file, closed to other processes.

    :param identity: what `choose_identity` said.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    linux.drop_bounding_set()
    if identity is not None:
        linux.become(*identity)
    linux.drop_capabilities()
    linux.set_no_new_privileges()
    linux.set_dumpable(False)  # our memory is a copy of the supervisor's


def enter_root(root: str) -> None:
    """Make a mount the root, and let go of all others."""
    os.chdir(root)
    linux.pivot_root(".", ".")
    linux.unmount(".", linux.MNT_DETACH)
    os.chdir("/")


def _may_change_ids() -> bool:
    """Whether root is root here: CAP_CHOWN, CAP_SETGID and CAP_SETUID."""
    with open("/proc/self/status") as file:
        words = file.read().split()
    needed = 1 << 0 | 1 << 6 | 1 << 7
    return int(words[words.index("CapEff:") + 1], 16) & needed == needed


def _is_mapped(name: str, identity: int) -> bool:
    """Whether an id exists in this user namespace; `name` is `uid_map` or `gid_map`."""
    with open(f"/proc/self/{name}") as file:
        rows = [list(map(int, line.split())) for line in file]
    return any(first <= identity < first + count for first, _, count in rows)


def _host_pid() -> int:
    """Our pid as the host counts it: a number that no other running VM has."""
    return int(os.readlink("/proc/self"))

"""Who a process becomes that root starts and does not trust."""

from __future__ import annotations

import os

_UNALLOCATED_IDS = 0x7000_0000  # above every range that distributions or systemd hand out
_NOBODY = 65534


def unprivileged_identity() -> int | None:
    """Return the user and group id for this process to drop to, which owns nothing and is nobody else's.

    None: it is not root, or a root that cannot change ids, and keeps what it has.
    """
    if os.geteuid() != 0 or not _may_change_ids():
        return None
    identity = _UNALLOCATED_IDS + _host_pid()
    return identity if _is_mapped(identity) else _NOBODY if _is_mapped(_NOBODY) else None


def _may_change_ids() -> bool:
    """Whether root is root here: CAP_CHOWN, CAP_SETGID and CAP_SETUID."""
    with open("/proc/self/status") as file:
        words = file.read().split()
    needed = 1 << 0 | 1 << 6 | 1 << 7
    return int(words[words.index("CapEff:") + 1], 16) & needed == needed


def _is_mapped(identity: int) -> bool:
    """Whether a user and group id exists in this user namespace."""

    def within(name: str) -> bool:
        with open(f"/proc/self/{name}") as file:
            rows = [list(map(int, line.split())) for line in file]
        return any(first <= identity < first + count for first, _, count in rows)

    return within("uid_map") and within("gid_map")


def _host_pid() -> int:
    """This process's pid as the host counts it: a number that no other running VM has."""
    return int(os.readlink("/proc/self"))

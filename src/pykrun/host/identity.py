"""Acting for somebody else, for the time of one call: file-system ids, groups and capabilities of this thread.

All of it through raw system calls, which change the calling thread only; the C library's wrappers of some would change
every thread.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from pykrun.host.linux import system_call
from pykrun.host.numbers import number

CAP_CHOWN = 0
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_FOWNER = 3
CAP_FSETID = 4
CAP_SETGID = 6
CAP_SETUID = 7
CAP_MKNOD = 27

_OF_FILES = sum(1 << capability for capability in (0, 1, 2, 3, 4, 9, 27, 32))
"""What a change of the file-system uid from or to 0 takes and gives (CAP_FS_SET)."""

_VERSION_3 = 0x2008_0522
_HEADER = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
_SAME = (1 << 32) - 1
_KNOWN_IDS = 4096

_syscall = ctypes.PyDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def _nr(name: str) -> ctypes.c_long:
    found = number(name)
    assert found is not None
    return ctypes.c_long(found)


class Identity:
    """What this process is, and the guises that it may take.

    One object per process and thread; made where the process has the rights that it will have while it serves.
    """

    def __init__(self) -> None:
        self._setfsuid, self._setfsgid, self._setgroups = _nr("setfsuid"), _nr("setfsgid"), _nr("setgroups")
        self._capset = _nr("capset")
        self.uid, self.gid = os.geteuid(), os.getegid()
        effective, permitted, inheritable = _capabilities()
        self.capabilities = effective
        needed = 1 << CAP_SETUID | 1 << CAP_SETGID
        self.switches = self.uid == 0 and effective & needed == needed
        """Others' ids can be taken on. Elsewhere everything that is made belongs to this process' user."""
        self._whole = _sets(effective, permitted, inheritable)
        self._guest = _sets(effective & ~_OF_FILES | effective & 1 << CAP_DAC_OVERRIDE, permitted, inheritable)
        self._careful = _sets(effective & ~(1 << CAP_FSETID), permitted, inheritable)
        self._may_set_ids = bool(effective & 1 << CAP_FSETID)
        self._groups: Sequence[int] | None = None  # those of this thread; None before the first change
        self._possible: set[tuple[int, int]] = set()

    def has(self, capability: int) -> bool:
        """Whether a capability is in force."""
        return bool(self.capabilities >> capability & 1)

    def take(self, uid: int, gid: int, groups: Sequence[int] = ()) -> bool:
        """Make files as somebody else from now on; return whether `restore` is needed.

        No group of ours is kept, from the first time on: a guest's user is in none of them. Rights to directories were
        checked by the guest's kernel, which knows all groups of its user, so they are not checked by ours again; what a
        set-group-ID directory does, and who may keep that bit, is.

        Ids that cannot be taken on are left: without the right to, or in a user namespace that does not have them.
        """
        if not self.switches or (uid == self.uid and gid == self.gid):
            return False
        if groups or self._groups is None:
            self._set_groups(groups)
        ids = (uid, gid)
        _syscall(self._setfsgid, gid)
        _syscall(self._setfsuid, uid)
        if ids not in self._possible and not self._taken(uid, gid):
            self.restore()
            return False
        if uid != self.uid:
            _syscall(self._capset, _HEADER, self._guest)
        return True

    def restore(self) -> None:
        """Be ourselves again, with all rights."""
        _syscall(self._setfsuid, self.uid)
        _syscall(self._setfsgid, self.gid)
        _syscall(self._capset, _HEADER, self._whole)
        if self._groups:
            self._set_groups(())

    def drop_fsetid(self) -> bool:
        """Let the kernel clear set-user-ID and set-group-ID bits with what follows; return whether it did not so far.

        `restore` gives the right back.
        """
        if self._may_set_ids:
            _syscall(self._capset, _HEADER, self._careful)
        return self._may_set_ids

    def _taken(self, uid: int, gid: int) -> bool:
        """Ask for the ids in force, by setting one that cannot be. Once per pair: it costs two calls."""
        if _syscall(self._setfsuid, _SAME) != uid or _syscall(self._setfsgid, _SAME) != gid:
            return False
        if len(self._possible) < _KNOWN_IDS:
            self._possible.add((uid, gid))
        return True

    def _set_groups(self, groups: Sequence[int]) -> None:
        """Groups that this user namespace does not have make it none; where it may not even have none, they stay."""
        self._groups = groups
        record = b"".join(group.to_bytes(4, "little") for group in groups)
        for count in (len(groups), 0):
            try:
                system_call("setgroups", count, record)
                return
            except OSError:
                pass


def _sets(effective: int, permitted: int, inheritable: int) -> ctypes.Array[ctypes.c_uint32]:
    """`struct __user_cap_data_struct[2]`."""
    words = (effective, permitted, inheritable)
    return (ctypes.c_uint32 * 6)(*(word & 0xFFFF_FFFF for word in words), *(word >> 32 for word in words))


def _capabilities() -> tuple[int, int, int]:
    """The effective, permitted and inheritable sets of this thread."""
    data = (ctypes.c_uint32 * 6)()
    if _syscall(_nr("capget"), _HEADER, data):
        return 0, 0, 0
    low, high = data[:3], data[3:]
    effective, permitted, inheritable = (one | other << 32 for one, other in zip(low, high, strict=True))
    return effective, permitted, inheritable

"""System calls over ctypes: namespaces, mounts, identities, filters.

Everything goes through libc's `syscall`, so that no wrapper of the C library is needed, and raises `OSError` with the
call's name. The interpreter lock is kept during the calls: `clone` must not let another thread run in between.
"""

from __future__ import annotations

import ctypes
import os

from pykrun.host.numbers import number

CLONE_PIDFD = 0x0000_1000
CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_RDONLY = 0x0001
MS_NOSUID = 0x0002
MS_NODEV = 0x0004
MS_NOEXEC = 0x0008
MS_SYNCHRONOUS = 0x0010
MS_REMOUNT = 0x0020
MS_DIRSYNC = 0x0080
MS_NOATIME = 0x0400
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x4_0000
MS_SLAVE = 0x8_0000
MS_RELATIME = 0x20_0000

MNT_DETACH = 2
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
AT_FDCWD = -100
AT_RECURSIVE = 0x8000

CAP_NET_BIND_SERVICE = 10
TFD_TIMER_ABSTIME = 1
TFD_TIMER_CANCEL_ON_SET = 2
_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC

ADDR_NO_RANDOMIZE = 0x0004_0000

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_NAME = 15
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_SECCOMP_SET_MODE_FILTER = 1
_CAPABILITY_VERSION_3 = 0x2008_0522
_LAST_CAPABILITY = 63
"""Past the newest one; PR_CAPBSET_DROP says EINVAL for what the kernel does not know."""

_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class _FilterProgram(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def system_call(name: str, *arguments: int | bytes | None) -> int:
    """Make a system call; integers are passed as 64 bits, bytes as a pointer, None as a null pointer.

    :raise OSError: with the call's errno; ENOSYS when this architecture does not have it.
    """
    nr = number(name)
    if nr is None:
        raise OSError(38, os.strerror(38), name)
    words = [ctypes.c_long(word) if isinstance(word, int) else ctypes.c_char_p(word) for word in arguments]
    result = int(_syscall(ctypes.c_long(nr), *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
    return result


def clone(flags: int) -> tuple[int, int]:
    """Fork into new namespaces; return (pid, pidfd) in the parent, (0, -1) in the child.

    Unlike `os.fork` no handler runs and no lock of the C library is taken care of: the caller must be the only thread
    of its process. The exit signal is SIGCHLD.

    :raise OSError: EPERM, ENOSPC, EINVAL: such namespaces are not to be had here.
    """
    pidfd = ctypes.c_int(-1)
    nr = number("clone")
    assert nr is not None
    result = int(
        _syscall(
            ctypes.c_long(nr),
            ctypes.c_ulong(flags | CLONE_PIDFD | 17),
            ctypes.c_long(0),
            ctypes.byref(pidfd),
            ctypes.c_long(0),
            ctypes.c_long(0),
        )
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "clone")
    return (result, pidfd.value) if result else (0, -1)


def unshare(flags: int) -> None:
    """Leave namespaces behind (CLONE_NEW...)."""
    system_call("unshare", flags)


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str | None = None) -> None:
    """mount(2). `kind` and `options` are left out (null) when None."""
    system_call(
        "mount",
        os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        flags,
        None if options is None else options.encode(),
    )


def mount_set_attributes(path: str, attributes: int) -> None:
    """Add MOUNT_ATTR_... to the mount at `path` and to all below it, and keep what they have (Linux 5.12)."""
    record = b"".join(word.to_bytes(8, "little") for word in (attributes, 0, 0, 0))
    system_call("mount_setattr", AT_FDCWD, os.fsencode(path), AT_RECURSIVE, record, len(record))


def make_read_only(path: str) -> None:
    """Make one mount read-only and nosuid by remounting it with the flags it has: the way before `mount_setattr`.

    Leaving out a flag that a mount of another user namespace has would be EPERM.
    """
    kept = os.statvfs(path).f_flag
    flags = kept & (os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME)  # the same bits in both
    if kept & os.ST_RELATIME:
        flags |= MS_RELATIME
    mount("none", path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | flags)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    system_call("pivot_root", os.fsencode(new), os.fsencode(old))


def unmount(path: str, flags: int = 0) -> None:
    """umount2(2)."""
    system_call("umount2", os.fsencode(path), flags)


def fallocate(descriptor: int, mode: int, offset: int, size: int) -> None:
    """fallocate(2) with a mode, FALLOC_FL_...; `os.posix_fallocate` has none."""
    system_call("fallocate", descriptor, mode, offset, size)


def timerfd_create(clock: int) -> int:
    """timerfd_create(2), non-blocking and close-on-exec."""
    return system_call("timerfd_create", clock, _TFD_FLAGS)


def timerfd_settime(descriptor: int, flags: int, due: int) -> None:
    """Let the timer expire once.

    :param flags: TFD_TIMER_...
    :param due: nanoseconds, by its clock or from now.
    """
    seconds, rest = divmod(due, 1_000_000_000)
    record = b"".join(word.to_bytes(8, "little") for word in (0, 0, seconds, rest))  # struct itimerspec
    system_call("timerfd_settime", descriptor, flags, record, None)


def set_parent_death_signal(number_: int) -> None:
    """Be sent a signal when the parent dies. The kernel forgets it whenever ids or capabilities change."""
    system_call("prctl", _PR_SET_PDEATHSIG, number_, 0, 0, 0)


def set_name(name: str) -> None:
    """Set what `ps` calls this process; cut after 15 bytes."""
    system_call("prctl", _PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def set_dumpable(dumpable: bool) -> None:
    """Whether processes of the same user may trace this one, read its memory and its /proc entries."""
    system_call("prctl", _PR_SET_DUMPABLE, int(dumpable), 0, 0, 0)


def set_child_subreaper() -> None:
    """Become the parent of descendants whose own parents died."""
    system_call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def set_no_new_privileges() -> None:
    """From now on no execve gives rights that the caller does not have."""
    system_call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_bounding_set(kept: int = 0) -> None:
    """Remove every capability (but those of a set) from the bounding set; without CAP_SETPCAP nothing changes."""
    for capability in range(_LAST_CAPABILITY + 1):
        if kept >> capability & 1:
            continue
        try:
            system_call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
        except OSError as error:
            if error.errno in (1, 22):  # EINVAL: the kernel has no further ones; EPERM: none to lose
                return
            raise


def drop_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets (and with them the ambient one)."""
    header = _CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4)
    system_call("capset", header, bytes(24))


def limit_capabilities(kept: int) -> None:
    """Have no other capabilities than those of a set (bit n is capability n), as far as they are there now."""
    header = _CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4)
    words = (ctypes.c_uint32 * 6)()  # struct __user_cap_data_struct[2]: effective, permitted, inheritable
    nr = number("capget")
    assert nr is not None
    if _syscall(ctypes.c_long(nr), ctypes.c_char_p(header), words) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "capget")
    low, high = words[1] & kept, words[4] & kept >> 32
    system_call("capset", header, b"".join(word.to_bytes(4, "little") for word in (low, low, 0, high, high, 0)))


def become(user: int, group: int, capability: int | None = None) -> None:
    """Change user and group id for good, with no further groups, and lose every capability but one.

    :param capability: CAP_... to keep, also over an execve.
    """
    if capability is not None:
        system_call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    if capability is not None:
        header = _CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4)
        kept = (1 << capability).to_bytes(8, "little")
        system_call("capset", header, kept[:4] * 3 + kept[4:] * 3)
        system_call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0)


def no_address_randomization() -> None:
    """Programs executed from now on get the same addresses each time."""
    system_call("personality", ADDR_NO_RANDOMIZE)


def install_filter(program: bytes) -> None:
    """Filter this process' system calls from now on, over execve too; needs no_new_privs.

    :param program: `struct sock_filter` records, 8 bytes each.
    """
    record = _FilterProgram(len(program) // 8, program)
    nr = number("seccomp")
    assert nr is not None
    result = _syscall(
        ctypes.c_long(nr), ctypes.c_long(_SECCOMP_SET_MODE_FILTER), ctypes.c_long(0), ctypes.byref(record)
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "seccomp")

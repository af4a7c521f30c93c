"""System-call filters, assembled to classic BPF: a deny list for engines, an allow list for our own servers.

What an engine calls differs between versions, C libraries and machines, and a filter that breaks somebody's engine
would be turned off. So its filter takes away what no engine of ours needs and what has been the way out of sandboxes:
new namespaces, mounts, modules, keyrings, io_uring, bpf, performance counters, other processes' memory, the clock, and
every socket family but AF_UNIX (AF_VSOCK is not bound to a network namespace).

A server of ours is a Python loop that opens, executes and connects to nothing. Its filter knows what it calls; the
rest is answered with EPERM, which is an exception there, and not with a signal: a C library that tries a newer call
first goes on with the older one.

Since Linux 5.11 the kernel keeps a bitmap of calls whose answer does not depend on the arguments, so that the length
of the list costs nothing; the guest's own calls under User Mode Linux never reach it (ptrace comes first).
"""

from __future__ import annotations

from collections.abc import Iterable

from pykrun.host.numbers import AUDIT_ARCH, MACHINE, number

# fmt: off
DENIED = (
    "acct", "add_key", "adjtimex", "bpf", "chroot", "clock_adjtime", "clock_settime", "delete_module", "fanotify_init",
    "finit_module", "fsconfig", "fsmount", "fsopen", "fspick", "init_module", "io_uring_enter", "io_uring_register",
    "io_uring_setup", "ioperm", "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mount",
    "mount_setattr", "move_mount", "move_pages", "name_to_handle_at", "nfsservctl", "open_by_handle_at", "open_tree",
    "perf_event_open", "pidfd_getfd", "pivot_root", "process_madvise", "process_vm_readv", "process_vm_writev",
    "quotactl", "quotactl_fd", "reboot", "request_key", "setdomainname", "sethostname", "setns", "settimeofday",
    "swapoff", "swapon", "syslog", "umount2", "unshare", "uselib", "userfaultfd", "ustat", "vhangup",
)
# fmt: on
"""Answered with EPERM, for every engine."""

# fmt: off
LOOP = (
    "epoll_wait", "epoll_pwait", "preadv", "pwritev", "preadv2", "pwritev2", "read", "readv", "write", "recvmsg",
    "sendto", "epoll_ctl", "epoll_create1", "close", "fdatasync", "fsync", "fallocate", "pread64", "pwrite64", "lseek",
    "fstat", "newfstatat", "munmap", "mremap", "brk", "madvise", "futex", "rt_sigprocmask", "rt_sigaction",
    "rt_sigreturn", "restart_syscall", "clock_gettime", "clock_nanosleep", "gettimeofday", "getpid", "gettid",
    "getrandom", "poll", "ppoll", "fcntl", "sendmsg", "recvfrom", "accept4", "shutdown", "getsockopt", "getsockname",
    "sched_yield", "exit", "exit_group",
)
"""What a server of ours may call: memory, time, open files and sockets."""

FOLDER = (
    "openat", "openat2", "statx", "getdents64", "readlinkat", "fstatfs", "statfs", "faccessat",
    "symlinkat", "mknodat", "mkdirat", "unlinkat", "renameat", "renameat2", "linkat",
    "fchmod", "fchmodat", "fchown", "fchownat", "utimensat", "ftruncate", "copy_file_range", "syncfs", "flock", "dup",
    "getxattr", "setxattr", "listxattr", "removexattr", "fgetxattr", "fsetxattr", "flistxattr", "fremovexattr",
    "umask", "setfsuid", "setfsgid", "setgroups", "capset", "capget", "geteuid", "getegid", "getuid", "getgid",
)
"""And one that serves a folder of the host."""
# fmt: on

_THREADS = ("set_robust_list", "rseq", "sched_getaffinity")

_LOOP_IOCTLS = (0x5421, 0x5450, 0x5451)  # FIONBIO, FIONCLEX, FIOCLEX: how Python sets these flags
_PROT_EXEC = 4

_NEW_NAMESPACES = 0x7E02_0000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_CLONE_THREAD = 0x1_0000
_AF_UNIX = 1
_X32 = 0x4000_0000

_EPERM = 0x0005_0000 | 1  # SECCOMP_RET_ERRNO
_ENOSYS = 0x0005_0000 | 38
_ALLOW = 0x7FFF_0000
_KILL = 0x8000_0000  # SECCOMP_RET_KILL_PROCESS

_LOAD, _RETURN, _EQUAL, _AT_LEAST, _ANY_BIT = 0x20, 0x06, 0x15, 0x35, 0x45  # BPF_LD|W|ABS, RET|K, JMP|JEQ/JGE/JSET|K
_NR, _ARCH, _ARG0 = 0, 4, 16  # offsets in struct seccomp_data; the low half of an argument comes first


def _step(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    """One `struct sock_filter`; `yes` and `no` are the numbers of records to skip."""
    return code.to_bytes(2, "little") + bytes((yes, no)) + k.to_bytes(4, "little")


def _answer(name: str, verdict: int) -> bytes:
    """`verdict` for one call, whatever its arguments."""
    nr = number(name)
    return b"" if nr is None else _step(_EQUAL, nr, 0, 1) + _step(_RETURN, verdict)


def _judge(name: str, test: int, k: int, when_true: int, when_false: int, argument: int = 0) -> bytes:
    """A verdict by the low half of one of a call's arguments."""
    nr = number(name)
    if nr is None:
        return b""
    return (
        _step(_EQUAL, nr, 0, 4)
        + _step(_LOAD, _ARG0 + 8 * argument)
        + _step(test, k, 0, 1)
        + _step(_RETURN, when_true)
        + _step(_RETURN, when_false)
    )


def _head() -> bytes:
    """Load the call's number, if it is one of this architecture."""
    program = _step(_LOAD, _ARCH) + _step(_EQUAL, AUDIT_ARCH[MACHINE], 1, 0) + _step(_RETURN, _KILL)
    program += _step(_LOAD, _NR)
    if MACHINE == "x86_64":
        program += _step(_AT_LEAST, _X32, 0, 1) + _step(_RETURN, _EPERM)
    return program


def assemble(also_denied: Iterable[str] = ()) -> bytes:
    """Return an engine's filter as `struct sock_filter` records.

    :param also_denied: further calls (names of `pykrun.host.numbers`) that this engine does not need.
    """
    program = _head()
    program += _judge("socket", _EQUAL, _AF_UNIX, _ALLOW, _EPERM)
    program += _judge("clone", _ANY_BIT, _NEW_NAMESPACES, _EPERM, _ALLOW)
    program += _answer("clone3", _ENOSYS)  # its flags are out of reach: C libraries fall back to clone
    for name in (*DENIED, *also_denied):
        program += _answer(name, _EPERM)
    return program + _step(_RETURN, _ALLOW)


def assemble_allowed(also_allowed: Iterable[str] = (), *, threads: bool = False) -> bytes:
    """Return a server's filter as `struct sock_filter` records.

    :param also_allowed: calls (names of `pykrun.host.numbers`) beside those of `LOOP`.
    :param threads: it may start threads, and still no processes.
    """
    program = _head()
    for name in (*LOOP, *also_allowed, *(_THREADS if threads else ())):
        program += _answer(name, _ALLOW)
    program += _judge("mmap", _ANY_BIT, _PROT_EXEC, _EPERM, _ALLOW, argument=2)
    if threads:
        program += _judge("mprotect", _ANY_BIT, _PROT_EXEC, _EPERM, _ALLOW, argument=2)
        program += _judge("clone", _ANY_BIT, _CLONE_THREAD, _ALLOW, _EPERM)
        program += _answer("clone3", _ENOSYS)  # its flags are out of reach: C libraries fall back to clone
    nr = number("ioctl")
    assert nr is not None
    program += _step(_EQUAL, nr, 0, 1 + 2 * len(_LOOP_IOCTLS)) + _step(_LOAD, _ARG0 + 8)
    for request in _LOOP_IOCTLS:
        program += _step(_EQUAL, request, 0, 1) + _step(_RETURN, _ALLOW)
    return program + _step(_RETURN, _EPERM)

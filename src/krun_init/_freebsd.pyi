"""The guest's seam to FreeBSD, implemented by `_freebsd.c`. Every call raises `OSError` with the kernel's errno."""

from collections.abc import Sequence

def kenv(name: str, /) -> bytes:
    """A variable of the kernel's environment (kenv(2), KENV_GET); of one with more than 128 bytes the first 130."""

def nmount(options: Sequence[tuple[str, str | None]], flags: int = ..., /) -> None:
    """nmount(2). None is an option without a value; at most 16 options."""

def unmount(target: str, flags: int = ..., /) -> None:
    """unmount(2)."""

def mounts() -> list[tuple[str, str, str, int]]:
    """What is mounted (getfsstat(2)): type, source, target, flags."""

def revoke(path: str, /) -> None:
    """Take the device away from whoever has it open (revoke(2))."""

def setlogin(name: str, /) -> None:
    """The session's login name (setlogin(2))."""

def sethostname(name: str, /) -> None:
    """sethostname(3)."""

def setrlimit(resource: int, soft: int, hard: int, /) -> None:
    """setrlimit(2); numbers above RLIM_INFINITY, which is 2**63-1 here, are infinity."""

def no_new_privs() -> None:
    """This process and its descendants gain no privileges by executing (procctl(2), PROC_NO_NEW_PRIVS_CTL)."""

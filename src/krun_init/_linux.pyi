"""The guest's seam to Linux, implemented by `_linux.c`. Every call raises `OSError` with the kernel's errno."""

from collections.abc import Callable, Sequence

Text = str | bytes

STEPS: tuple[str, ...]
"""What the child of `spawn` does, in order, the execution last."""

def spawn(
    candidates: Sequence[Text],
    argv: Sequence[Text],
    env: Sequence[Text],
    *,
    streams: tuple[int, int, int] = ...,
    session: int = ...,
    terminal: int = ...,
    rlimits: Sequence[tuple[int, int, int]] = ...,
    groups: Sequence[int] | None = ...,
    uid: int = ...,
    gid: int = ...,
    umask: int = ...,
    capabilities: tuple[int, int, int, int, int] | None = ...,
    no_new_privs: bool = ...,
) -> int:
    """Start a program in a child process and return its pid once it was executed.

    The child shares the caller's memory until then and the caller is suspended. The caller has blocked all signals
    (`signalfd`); the child unblocks them. Numbers of -1 mean: leave as it is.

    :param candidates: paths to execute, the first that works (execvp(3)).
    :param streams: descriptors above 2 for 0, 1 and 2.
    :param session: 0: own process group, in the foreground of `terminal`; 1: own session, `terminal` controls it;
        2: neither.
    :param rlimits: RLIMIT number, soft and hard limit.
    :param capabilities: masks of the bounding, effective, inheritable, permitted and ambient set.
    :raise OSError: `filename` names the step that failed: `clone` or one of `STEPS`; `filename2` of the step rlimits is
        the index of the limit that the kernel refused.
    """

def execute(
    candidates: Sequence[Text],
    argv: Sequence[Text],
    env: Sequence[Text],
    *,
    streams: tuple[int, int, int] = ...,
    session: int = ...,
    terminal: int = ...,
    rlimits: Sequence[tuple[int, int, int]] = ...,
    groups: Sequence[int] | None = ...,
    uid: int = ...,
    gid: int = ...,
    umask: int = ...,
    capabilities: tuple[int, int, int, int, int] | None = ...,
    no_new_privs: bool = ...,
    heir: Callable[[], None] | None = ...,
) -> int:
    """The same in this very process; returns only by raising.

    :param heir: is called, after the execution, in a child that has this process' memory, descriptors and ids as they
        were, no signal blocked, and that wait(2) does not see (`__WCLONE`). Failing to make it is the step `heir`.
    """

def mount(source: str | None, target: str, fstype: str | None, flags: int = ..., data: str | None = ..., /) -> None:
    """mount(2)."""

def umount(target: str, flags: int = ..., /) -> None:
    """umount2(2)."""

def swapoff(path: str, /) -> None:
    """swapoff(2)."""

def reboot(command: int, /) -> None:
    """reboot(2), without syncing."""

def allow_descriptors(count: int, /) -> tuple[int, int]:
    """Let this process have so many open (RLIMIT_NOFILE), or as many as it may; returns both limits as they were."""

def sethostname(name: Text, /) -> None:
    """sethostname(2)."""

def finit_module(descriptor: int, /) -> None:
    """Load the kernel module that is open there (finit_module(2)), without parameters."""

def filesystem_type(descriptor: int, /) -> int:
    """The magic number of the file system that the descriptor lies on (fstatfs(2))."""

def signalfd(mask: int, /) -> int:
    """Block every signal and return a non-blocking signalfd(2) for those in the mask (bit n-1 is signal n)."""

def unblock_signals() -> None:
    """Block no signal any more: for a child of init that is to be ended like any process."""

def attach_filter(descriptor: int, code: bytes, /) -> None:
    """Let the socket receive only what the program accepts (SO_ATTACH_FILTER of socket(7)).

    :param code: classic BPF, one `struct sock_filter` after the other.
    """

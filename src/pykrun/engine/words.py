"""The kernel command line: what may be on it, how long it may be, and what a panic leaves behind."""

from __future__ import annotations

from collections.abc import Iterable

from pykrun.errors import UsageError
from pykrun.machine import ROOT_TAG, Machine

LIMIT = 2048
"""Bytes of a kernel command line, its final NUL included (COMMAND_LINE_SIZE on x86); the kernel cuts silently."""

PANIC = b"Kernel panic"
"""What a kernel that gives up prints first."""

PANIC = b"Kernel panic"
"""What a kernel's last words begin with (kernel/panic.c: "Kernel panic - not syncing: ...")."""

_PANIC_CODE = b"exitcode=0x"


def check_word(word: str) -> str:
    """Return `word` if it can stand on a kernel command line as one parameter.

    :raise UsageError: it is empty, is `--` (which ends the parameters), or has white space, quotes, control characters
        or anything but ASCII.
    """
    if not word or word == "--" or not word.isascii() or not word.isprintable() or set(word) & set(" \"'"):
        raise UsageError(
            f"{word!a} cannot be a kernel parameter",
            "a parameter is printable ASCII without white space and quotes",
        )
    return word


def common_words(machine: Machine) -> list[str]:
    """The parameters that every engine gives: where to boot from, and what init may say.

    With an initramfs the kernel runs its /init and looks no further; without one it mounts the virtio-fs root itself.
    `init=` is given only if the caller gave neither `init=` nor `rdinit=`.
    """
    words = ["printk.devkmsg=on"]  # the kernel's log is init's console: the kernel would ration what is written there
    if machine.initramfs is None:
        words += ["rootfstype=virtiofs", f"root={ROOT_TAG}", "rw"]
    elif machine.execute_init:
        words.append("KRUN_STAGE1=exec")
    if machine.init is not None and not any(word.startswith(("init=", "rdinit=")) for word in machine.kernel_args):
        words.append(f"init={check_word(machine.init)}")
    return words


def own_words(machine: Machine) -> list[str]:
    """The caller's own command line in place of the fixed one: its words, and where to boot from if it does not say.

    A word in quotes may have white space in it, so that the words are not checked one by one.
    """
    words = list(machine.command_line or ())
    if machine.initramfs is not None:
        words += ["KRUN_STAGE1=exec"] if machine.execute_init else []
    elif "rootfstype=virtiofs" in words and not any(word.startswith("root=") for word in words):
        words.append(f"root={ROOT_TAG}")
    return words


def check_line(words: Iterable[str]) -> str:
    """Join parameters to a command line.

    :raise UsageError: it is longer than the kernel reads.
    """
    line = " ".join(words)
    if len(line) >= LIMIT:
        raise UsageError(
            f"the kernel command line has {len(line)} bytes, the kernel reads {LIMIT - 1}",
            "give fewer or shorter --kernel-arg words",
        )
    return line


def panic_exit_code(console: bytes) -> int | None:
    """Return the exit code of PID 1 from a kernel's last words, None when they do not tell.

    A kernel whose init ends says "Attempted to kill init! exitcode=0x00002a00": a wait status, here exit code 42. A
    signal becomes 128 plus its number.
    """
    digits = console.rpartition(_PANIC_CODE)[2][:8] if _PANIC_CODE in console else b""
    try:
        status = int(digits, 16)
    except ValueError:
        return None
    return 128 + (status & 0x7F) if status & 0x7F else status >> 8 & 0xFF

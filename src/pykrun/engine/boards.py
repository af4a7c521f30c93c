"""What QEMU is for each machine that a guest can be: its program, the board, and what the kernel is told of it."""

from __future__ import annotations

from pykrun.record import record

_SLOW_STARTS = "load_system_certificate_list,init_kprobe_trace,crypto_kdf108_init,init_encrypted"


@record(frozen=True, slots=True, kw_only=True)
class Board:
    """One architecture.

    :ivar program: QEMU's.
    :ivar install: the package that brings it, by package manager.
    :ivar machine: value of `-M`.
    :ivar cpu: value of `-cpu` under emulation.
    :ivar serial: what the kernel calls its serial lines, without the number; the last one is the kernel's console.
    :ivar max_serials: how many of them the guest's user may have beside.
    :ivar words: kernel parameters that the board needs.
    """

    program: str
    install: dict[str, str]
    machine: str
    cpu: str
    serial: str
    max_serials: int
    words: tuple[str, ...]


BOARDS = {
    "x86_64": Board(
        program="qemu-system-x86_64",
        install={"apt": "qemu-system-x86", "dnf": "qemu-system-x86-core", "pacman": "qemu-system-x86"},
        machine="q35",
        cpu="max",
        serial="ttyS",
        max_serials=3,  # of four
        words=("reboot=t", "no_timer_check", f"initcall_blacklist={_SLOW_STARTS}"),
    ),
    "aarch64": Board(
        program="qemu-system-aarch64",
        install={"apt": "qemu-system-arm", "dnf": "qemu-system-aarch64-core", "pacman": "qemu-system-aarch64"},
        machine="virt,gic-version=max",  # version 2 of the interrupt controller knows eight CPUs
        # Signing return addresses the architecture's way is more than half of an emulated boot, QEMU's own way a fifth.
        # Programs that do it run without, too.
        cpu="max,pauth=off",
        serial="ttyAMA",
        max_serials=0,
        words=(f"initcall_blacklist={_SLOW_STARTS}",),
    ),
}
"""By the architecture's name, as `uname -m` says it."""

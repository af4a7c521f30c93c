"""What a blob can be for, and the choices of the recipe that differ between the targets.

The text of this file is part of the cache's key.
"""

from __future__ import annotations

from pykrun.host.numbers import MACHINE
from pykrun.record import record

ZIG = "0.17.1"
"""Version of the compiler for every target that is not this machine itself. Pinned: it decides the bytes."""

FREEBSD = "14.0"
"""The oldest FreeBSD that a blob for it runs on."""


@record(frozen=True, slots=True)
class Target:
    """A system and a machine.

    :param name: what `--arch` takes.
    :param system: a key of `recipe.SEAMS`.
    :param machine: as `uname -m` says it on Linux.
    """

    name: str
    system: str
    machine: str

    @property
    def is_native(self) -> bool:
        """Whether this machine runs what is built for it."""
        return self.system == "linux" and self.machine == MACHINE

    @property
    def gnu(self) -> str:
        """What CPython's configure calls it."""
        return f"{self.machine}-linux-musl" if self.system == "linux" else f"{self.machine}-unknown-freebsd"

    @property
    def zig(self) -> str:
        """What the cross compiler calls it."""
        return f"{self.machine}-linux-musl" if self.system == "linux" else f"{self.machine}-freebsd.{FREEBSD}-none"


TARGETS = {
    name: Target(name, system, machine)
    for name, system, machine in (
        ("x86_64", "linux", "x86_64"),
        ("aarch64", "linux", "aarch64"),
        ("freebsd-x86_64", "freebsd", "x86_64"),
        ("freebsd-aarch64", "freebsd", "aarch64"),
    )
}
"""By the name that `--arch` takes."""

PAGE = {"x86_64": 4096, "aarch64": 65536}
"""The largest pages that a kernel for the machine may have: segments begin at a multiple. heap.h has it too."""

COMPILE_MACHINE = {"x86_64": (), "aarch64": ("-mno-outline-atomics",)}
"""Compiler options beside `recipe.COMPILE`. Atomics out of line ask at each start which instructions the CPU has, and
would keep the builder's answer in a snapshot."""

COMPILE_ZIG = ("-fno-sanitize=undefined",)
"""What that compiler does unless told otherwise."""

LINK_ZIG = {
    "linux": ("-static", "-no-pie", "-Wl,--gc-sections", "-Wl,-z,norelro", "-Wl,-z,noexecstack", "-Wl,-s"),
    "freebsd": ("-no-pie", "-Wl,--gc-sections", "-Wl,-z,noexecstack", "-Wl,-s"),
}
"""In place of `recipe.LINK`. FreeBSD's C library is linked as the shared one, the only kind that the compiler has."""

CONFIGURE_CROSS = (
    # What configure would find out by running programs, or takes for broken when it cannot.
    "ac_cv_aligned_required=no",
    "ac_cv_broken_sem_getvalue=no",
    "ac_cv_buggy_getaddrinfo=no",
    "ac_cv_computed_gotos=yes",
    "ac_cv_file__dev_ptc=no",
    "ac_cv_file__dev_ptmx=yes",
    "ac_cv_working_tzset=yes",
)
"""CPython's configure, beside `recipe.CONFIGURE`, when what it compiles does not run here."""

PATCHES = {
    "linux": (),
    "freebsd": (
        # CPython 3.11 compiles for FreeBSD, and on it, but its configure knows no cross build for it: two lists of the
        # systems that it does know, each of which ends in an error.
        ("configure", "\t*-*-vxworks*)\n\t    ac_sys", "\t*-*-freebsd*)\n\t    ac_sys_system=FreeBSD\n\t    ;;\n"),
        ("configure", "\t*-*-vxworks*)\n\t\t_host_cpu", "\t*-*-freebsd*)\n\t\t_host_cpu=$host_cpu\n\t\t;;\n"),
    ),
}
"""Changes to CPython's source: the file, a place in it that occurs once, and what is put before that."""

"""truncate, ftruncate, posix_fallocate, writes: sizes, errors, and the bits that go."""

from __future__ import annotations

import os

from tests.conformance.actors import EVERYBODY, OTHER, OWNER, ROOT
from tests.conformance.table import KINDS, add, make, own, scenario
from tests.conformance.world import World

SIZES = (0, 1, 567, 4095, 4096, 12345, 1 << 20, 1 << 33, (1 << 44) - 4096, 1 << 44, 1 << 50, (1 << 63) - 1, -1)


@scenario
def truncating(world: World) -> None:
    world.quietly("create", "x")
    for size in SIZES:
        world.do(ROOT, "truncate", "x", size)
        world.do(ROOT, "open", "x", os.O_RDWR, 0, ["ftruncate", size], ["fstat"], ["ftruncate", 10], ["fstat"])


@scenario
def truncating_everything(world: World) -> None:
    for kind in KINDS:
        make(world, kind, kind)
        for who in (ROOT, OTHER):
            world.do(who, "truncate", kind, 5)
    world.quietly("symlink", "file", "to")
    world.do(ROOT, "truncate", "to", 9)
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
        world.do(ROOT, "open", "file", flags, 0, ["ftruncate", 4], ["write", "abc"], ["ftruncate", 0])


@scenario
def allocating(world: World) -> None:
    world.quietly("create", "x")
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        for offset, length in (
            (0, 567),
            (20_000, 3456),
            (0, 1),
            (0, 0),
            (0, -1),
            (-1, 5),
            ((1 << 63) - 2, 5),
            (5, 1 << 45),
        ):
            world.do(ROOT, "open", "x", flags, 0, ["posix_fallocate", offset, length], ["fstat"])
    for mode in (1, 2, 3, 0x10, 0x11, 0x40, 0x80):
        world.do(ROOT, "open", "x", os.O_RDWR, 0, ["fallocate", mode, 4096, 4096], ["fstat"])
    for kind in ("fifo", "dir", "char"):
        make(world, kind, kind)
    world.do(ROOT, "open", "fifo", os.O_RDWR, 0, ["posix_fallocate", 0, 5])
    world.do(ROOT, "open", "dir", os.O_RDONLY, 0, ["posix_fallocate", 0, 5])


CHANGES = {
    "write": ("open", os.O_WRONLY, 0, ["write", "x"], ["fstat"]),
    "write_both": ("open", os.O_RDWR, 0, ["write", "x"], ["fstat"]),
    "append": ("open", os.O_WRONLY | os.O_APPEND, 0, ["write", "x"], ["fstat"]),
    "nothing": ("open", os.O_WRONLY, 0, ["write", ""], ["fstat"]),
    "opening": ("open", os.O_WRONLY, 0, ["fstat"]),
    "truncating_open": ("open", os.O_WRONLY | os.O_TRUNC, 0, ["fstat"]),
    "ftruncate": ("open", os.O_WRONLY, 0, ["ftruncate", 5], ["fstat"]),
    "ftruncate_same": ("open", os.O_WRONLY, 0, ["ftruncate", 0], ["fstat"]),
    "allocate": ("open", os.O_WRONLY, 0, ["posix_fallocate", 0, 5], ["fstat"]),
    "truncate": ("truncate", 3),
}


def set_ids(change: str, world: World) -> None:
    """Whoever writes without the right to keep them takes set-ID bits away.

    A set-group-ID bit without the group's right to execute gives nobody anything; FUSE leaves it alone.
    """
    call, *arguments = CHANGES[change]
    world.quietly("create", "x")
    for mode in (0o4777, 0o2777, 0o6777, 0o4666, 0o1777):
        for owner in (ROOT, OWNER):
            for who in EVERYBODY:
                if change == "allocate" and who is ROOT:
                    continue  # FUSE does not say who may keep them there: nobody does
                world.quietly("truncate", "x", 0)
                own(world, "x", owner.uid, owner.gid, mode)
                world.do(who, call, "x", *arguments)


for _change in CHANGES:
    add(f"set_id_bits_and_{_change}", set_ids, _change)


@scenario
def a_running_program(world: World) -> None:
    """Nobody writes to it while it runs; anybody may remove it.

    O_RDONLY | O_TRUNC, which POSIX leaves open, is left out: Linux' FUSE sends it before it looks whether it may.
    """
    import shutil
    import subprocess

    program = shutil.which("sleep") or "/bin/sleep"
    shutil.copy(program, world.path("sleep"))
    os.chmod(world.path("sleep"), 0o755)
    running = subprocess.Popen([world.path("sleep"), "100"])
    try:
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            world.do(ROOT, "open", "sleep", flags)
        world.do(ROOT, "truncate", "sleep", 5)
        world.do(ROOT, "chmod", "sleep", 0o700)
        world.do(ROOT, "rename", "sleep", "slept")
        world.do(ROOT, "unlink", "slept")
    finally:
        running.kill()
        running.wait()


@scenario
def a_file_open_for_writing_does_not_run(world: World) -> None:
    import shutil

    shutil.copy(shutil.which("true") or "/bin/true", world.path("true"))
    os.chmod(world.path("true"), 0o755)
    with open(world.path("true"), "ab"):
        world.do(ROOT, "execute", "true")
    world.do(ROOT, "execute", "true")
    world.do(OTHER, "execute", "true")
    os.chmod(world.path("true"), 0o644)
    world.do(ROOT, "execute", "true")


@scenario
def large_offsets(world: World) -> None:
    world.quietly("create", "x")
    for offset in ((1 << 31) - 2, (1 << 32) - 2, 1 << 40, (1 << 44) - 10, 1 << 44, (1 << 63) - 2):
        world.do(ROOT, "open", "x", os.O_RDWR, 0, ["write", "abc", offset], ["fstat"])
    world.do(ROOT, "truncate", "x", 0)

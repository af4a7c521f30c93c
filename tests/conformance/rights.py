"""Every permission bit in every class, on files and on directories on the way."""

from __future__ import annotations

import os

from tests.conformance.actors import EVERYBODY, MEMBER, OTHER, OWNER, ROOT
from tests.conformance.table import add, make, own, scenario
from tests.conformance.world import World

CLASSES = {6: OWNER, 3: MEMBER, 0: OTHER}
WAYS = {
    "read": os.O_RDONLY,
    "write": os.O_WRONLY,
    "both": os.O_RDWR,
    "read-truncate": os.O_RDONLY | os.O_TRUNC,
    "write-truncate": os.O_WRONLY | os.O_TRUNC,
    "create": os.O_WRONLY | os.O_CREAT,
    "append": os.O_WRONLY | os.O_APPEND,
}


def of_a_file(shift: int, world: World) -> None:
    world.quietly("create", "x")
    for bits in range(8):
        for way in WAYS.values():
            own(world, "x", OWNER.uid, OWNER.gid, bits << shift)
            world.do(CLASSES[shift], "open", "x", way)
        for mask in (os.R_OK, os.W_OK, os.X_OK, 7):
            world.do(CLASSES[shift], "access", "x", mask)
        world.do(CLASSES[shift], "truncate", "x", 5)
        world.do(ROOT, "access", "x", os.X_OK)


def of_a_directory(shift: int, world: World) -> None:
    """What may be done below a directory with each of the bits."""
    who = CLASSES[shift]
    for bits in range(8):
        name = f"d{bits}"
        world.quietly("mkdir", name)
        for inside in ("file", "dir", "link", "fifo", "old", "away", "gone"):
            make(world, inside if inside in ("dir", "link", "fifo") else "file", f"{name}/{inside}")
            own(world, f"{name}/{inside}", who.uid, who.gid)
        world.quietly("mkdir", f"{name}/empty")
        world.quietly("create", f"out{bits}")
        own(world, f"out{bits}", who.uid, who.gid)
        own(world, name, OWNER.uid, OWNER.gid, bits << shift)
        world.do(who, "listing", name)
        for call, *arguments in (
            ("stat", f"{name}/file"),
            ("stat", f"{name}/missing"),
            ("open", f"{name}/file", os.O_RDONLY),
            ("open", f"{name}/made", os.O_WRONLY | os.O_CREAT, 0o644),
            ("chmod", f"{name}/file", 0o600),
            ("lchown", f"{name}/file", -1, who.gid),
            ("truncate", f"{name}/file", 3),
            ("utimensat", f"{name}/file", 10**18, 10**18),
            ("mkdir", f"{name}/made-dir"),
            ("mkfifo", f"{name}/made-fifo"),
            ("bind", f"{name}/made-socket"),
            ("symlink", "t", f"{name}/made-link"),
            ("link", f"out{bits}", f"{name}/linked"),
            ("link", f"{name}/file", f"linked{bits}"),
            ("readlink", f"{name}/link"),
            ("unlink", f"{name}/gone"),
            ("unlink", f"{name}/missing"),
            ("rmdir", f"{name}/empty"),
            ("rename", f"{name}/old", f"{name}/new"),
            ("rename", f"{name}/away", f"away{bits}"),
            ("rename", f"out{bits}", f"{name}/in"),
        ):
            world.do(who, call, *arguments)


for _shift, _who in CLASSES.items():
    add(f"bits_of_a_file_for_{_who.uid}", of_a_file, _shift)
    add(f"bits_of_a_directory_for_{_who.uid}", of_a_directory, _shift)


@scenario
def root_passes(world: World) -> None:
    world.quietly("mkdir", "d", 0)
    world.quietly("create", "d/x", 0)
    own(world, "d", OWNER.uid, OWNER.gid, 0)
    own(world, "d/x", OWNER.uid, OWNER.gid, 0)
    for way in WAYS.values():
        world.do(ROOT, "open", "d/x", way)
    world.do(ROOT, "execute", "d/x")
    world.do(ROOT, "create", "d/y")
    world.do(ROOT, "unlink", "d/x")


@scenario
def moving_a_directory_takes_the_right_to_write_to_it(world: World) -> None:
    """Its `..` changes."""
    for name in ("a", "b"):
        world.quietly("mkdir", name)
        world.quietly("chmod", name, 0o777)
    for mode in (0o700, 0o755, 0o555, 0o777):
        for owner in (OWNER, ROOT):
            for who in EVERYBODY:
                name = f"{mode:o}-{owner.uid}-{who.uid}"
                world.quietly("mkdir", f"a/{name}")
                own(world, f"a/{name}", owner.uid, owner.gid, mode)
                world.do(who, "rename", f"a/{name}", f"a/{name}-2")
                world.do(who, "rename", f"a/{name}-2", f"b/{name}")
                world.do(who, "rename", f"a/{name}", f"b/{name}")


@scenario
def several_directories_deep(world: World) -> None:
    """One that may not be searched hides all below it."""
    world.quietly("mkdir", "a")
    world.quietly("mkdir", "a/b")
    world.quietly("mkdir", "a/b/c")
    world.quietly("create", "a/b/c/x", 0o666)
    for mode in (0o755, 0o644, 0o711, 0o700, 0o311):
        world.quietly("chmod", "a/b", mode)
        for who in EVERYBODY:
            for call, *arguments in (
                ("stat", "a/b/c/x"),
                ("open", "a/b/c/x", os.O_WRONLY | os.O_TRUNC),
                ("truncate", "a/b/c/x", 4),
                ("chmod", "a/b/c/x", 0o666),
                ("listing", "a/b/c"),
                ("listing", "a/b"),
                ("utimes_null", "a/b/c/x"),
            ):
                world.do(who, call, *arguments)

"""open(O_CREAT), mkdir, mkfifo, mknod, bind, symlink, link: what is made, whose it is, and what its directory shows."""

from __future__ import annotations

import os
from typing import Any

from tests.conformance.actors import EVERYBODY, MEMBER, OTHER, OWNER, ROOT, Who
from tests.conformance.table import KINDS, add, make, own, scenario
from tests.conformance.world import World

MAKERS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "file": ("create", ()),
    "dir": ("mkdir", ()),
    "fifo": ("mkfifo", ()),
    "node": ("mknod", ("file",)),
    "char": ("mknod", ("char",)),
    "block": ("mknod", ("block",)),
}


def modes(kind: str, world: World) -> None:
    call, more = MAKERS[kind]
    number = 0
    for mode in (0o755, 0o151, 0o345, 0, 0o7777, 0o4644, 0o2755, 0o1666):
        for umask in (0, 0o22, 0o77, 0o70, 0o501, 0o777):
            for who in (ROOT, OWNER):
                number += 1
                world.do(who, call, f"n{number}", *more, mode, umask)
                world.quietly("rmdir" if kind == "dir" else "unlink", f"n{number}") if _made(world) else None


def _made(world: World) -> bool:
    return ": done" in world.trace[-1]


def owners(kind: str, world: World) -> None:
    """The maker's user, and the maker's or the directory's group."""
    number = 0
    for directory in ((0o777, 0, 0), (0o2777, 0, 65532), (0o2777, 0, 65528), (0o755, 65534, 65534), (0o1777, 5, 6)):
        name = f"d{number}"
        world.quietly("mkdir", name)
        own(world, name, directory[1], directory[2], directory[0])
        for who in EVERYBODY:
            for mode in (0o644, 0o6755, 0o2645):
                number += 1
                if kind in MAKERS:
                    call, more = MAKERS[kind]
                    world.do(who, call, f"{name}/{number}", *more, mode)
                elif kind == "link":
                    world.do(who, "symlink", "target", f"{name}/{number}")
                else:
                    world.do(who, "bind", f"{name}/{number}")


def parents(kind: str, world: World) -> None:
    """A directory's times change with its entries, and not where nothing was made."""
    world.quietly("mkdir", "d")
    own(world, "d", OWNER.uid, OWNER.gid, 0o755)
    for who in (OWNER, OTHER, ROOT):
        for name in ("d/new", "d/new", f"d/{who.uid}"):
            if kind in MAKERS:
                call, more = MAKERS[kind]
                world.do(who, call, name, *more)
            elif kind == "link":
                world.do(who, "symlink", "target", name)
            else:
                world.do(who, "bind", name)
    for who in (OTHER, OWNER):
        world.do(who, "rmdir" if kind == "dir" else "unlink", "d/new")


for _kind in MAKERS:
    add(f"modes_of_{_kind}", modes, _kind)
for _kind in (*MAKERS, "link", "socket"):
    add(f"makers_of_{_kind}", owners, _kind)
    add(f"times_around_making_{_kind}", parents, _kind, timed=True)


def linking(kind: str, world: World) -> None:
    """One more name: counts, times of the file and of both directories, everybody's rights to it."""
    for name in ("a", "b"):
        world.quietly("mkdir", name)
        world.quietly("chmod", name, 0o777)
    make(world, kind, "a/one")
    world.do(ROOT, "link", "a/one", "b/two")
    world.do(ROOT, "link", "a/one", "b/two")
    world.do(ROOT, "chmod" if kind != "link" else "lchown", "b/two", *((0o201,) if kind != "link" else (5, 6)))
    world.do(ROOT, "lchown", "a/one", OWNER.uid, OWNER.gid)
    for who in (OWNER, MEMBER, OTHER):
        world.do(who, "link", "b/two", f"a/by{who.uid}")
    world.do(OWNER, "unlink", "a/one")
    world.do(ROOT, "unlink", "b/two")
    world.do(ROOT, "link", "a/one", "b/three")


for _kind in KINDS:
    add(f"linking_{_kind}", linking, _kind, timed=True)


@scenario(timed=True)
def linking_takes_rights_in_both_directories(world: World) -> None:
    for name, mode in (("open", 0o777), ("nowrite", 0o555), ("nosearch", 0o666), ("closed", 0)):
        world.quietly("mkdir", name)
        world.quietly("create", f"{name}/f")
        own(world, f"{name}/f", OWNER.uid, OWNER.gid)
        own(world, name, OWNER.uid, OWNER.gid, mode)
    for source in ("open", "nowrite", "nosearch", "closed"):
        for target in ("open", "nowrite", "nosearch", "closed"):
            for who in (OWNER, OTHER, ROOT):
                world.do(who, "link", f"{source}/f", f"{target}/from-{source}-{who.uid}")


@scenario
def linking_follows_only_when_asked(world: World) -> None:
    world.quietly("create", "file")
    world.quietly("symlink", "file", "link")
    world.quietly("symlink", "missing", "dangling")
    world.do(ROOT, "link", "link", "one")
    world.do(ROOT, "link_followed", "link", "two")
    world.do(ROOT, "link_followed", "dangling", "three")
    world.do(ROOT, "link", "dangling", "four")


@scenario
def a_chain_of_names(world: World) -> None:
    world.quietly("create", "n0", 0o644)
    for number in range(1, 40):
        world.quietly("link", f"n{number - 1}", f"n{number}")
    for who, number in ((ROOT, 3), (ROOT, 39), (OTHER, 5)):
        world.do(who, "unlink", f"n{number}")
    world.do(ROOT, "truncate", "n7", 12)


@scenario
def creation_without_rights_is_open_for_its_maker(world: World) -> None:
    both = os.O_RDWR | os.O_CREAT
    for who in (ROOT, OWNER):
        steps = (["write", "text"], ["ftruncate", 3], ["read", 9], ["posix_fallocate", 0, 9], ["fstat"])
        world.do(who, "open", f"n{who.uid}", both, 0, *steps)
        world.do(who, "open", f"n{who.uid}", both, 0, *steps)
        world.do(who, "open", f"r{who.uid}", os.O_RDONLY | os.O_CREAT, 0o222, ["write", "x"], ["ftruncate", 3])


def everybody_makes_devices(who: Who, world: World) -> None:
    for kind in ("block", "char", "fifo", "file"):
        for major, minor in ((1, 3), (0, 0), (255, 255), (1, 300), (4095, 1)):
            world.do(who, "mknod", f"{kind}{major}-{minor}", kind, 0o666, 0, major, minor)


for _who in EVERYBODY:
    add(f"devices_by_{_who.uid}", everybody_makes_devices, _who)

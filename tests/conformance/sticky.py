"""Directories in which only owners remove: unlink, rmdir, and both ends of rename."""

from __future__ import annotations

from tests.conformance.actors import MEMBER, OTHER, OWNER, ROOT
from tests.conformance.table import KINDS, add, make, own
from tests.conformance.world import World

PEOPLE = (ROOT, OWNER, OTHER)


def removing(kind: str, world: World) -> None:
    for mode in (0o1777, 0o777):
        for directory in PEOPLE:
            for file in PEOPLE:
                for who in (*PEOPLE, MEMBER):
                    name = f"d{mode:o}-{directory.uid}-{file.uid}-{who.uid}"
                    world.quietly("mkdir", name)
                    make(world, kind, f"{name}/x")
                    own(world, f"{name}/x", file.uid, file.gid)
                    own(world, name, directory.uid, directory.gid, mode)
                    answer = world.do(who, "rmdir" if kind == "dir" else "unlink", f"{name}/x")
                    if answer != "done":
                        world.quietly("rmdir" if kind == "dir" else "unlink", f"{name}/x")
                    world.quietly("rmdir", name)


def moving(kind: str, world: World) -> None:
    """Out of, into and onto something in a sticky directory."""
    other = "dir" if kind == "dir" else "file"
    for directory in PEOPLE:
        for file in PEOPLE:
            for target in (None, *PEOPLE):
                for who in (OWNER, OTHER):
                    for place, goal in (("s", "s"), ("s", "o"), ("o", "s")):
                        for name in ("s", "o"):
                            world.quietly("mkdir", name)
                        make(world, kind, f"{place}/x")
                        own(world, f"{place}/x", file.uid, file.gid)
                        if target is not None:
                            make(world, other, f"{goal}/y")
                            own(world, f"{goal}/y", target.uid, target.gid)
                        own(world, "s", directory.uid, directory.gid, 0o1777)
                        own(world, "o", 0, 0, 0o777)
                        world.do(who, "rename", f"{place}/x", f"{goal}/y")
                        _clear(world, kind)


def _clear(world: World, kind: str) -> None:
    for name in ("s/x", "s/y", "o/x", "o/y"):
        gone = world.attempt("unlink", name)
        if gone != "done":
            world.attempt("rmdir", name)
    world.quietly("rmdir", "s")
    world.quietly("rmdir", "o")


for _kind in KINDS:
    add(f"removing_{_kind}_from_a_sticky_directory", removing, _kind, full=_kind not in ("file", "dir"))
for _kind in ("file", "dir", "link", "fifo"):
    add(f"moving_{_kind}_with_a_sticky_directory", moving, _kind, full=_kind != "file")

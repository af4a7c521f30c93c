"""chmod, chown and lchown: who may, which bits go, which times move."""

from __future__ import annotations

from tests.conformance.actors import EVERYBODY, MEMBER, OTHER, OWNER, ROOT, STRANGER
from tests.conformance.table import KINDS, add, make, own, scenario
from tests.conformance.world import World


def chmod(kind: str, world: World) -> None:
    for name in ("x", "y"):
        make(world, kind, name)
        own(world, name, OWNER.uid, OWNER.gid)
    world.quietly("symlink", "y", "to")
    for who in (*EVERYBODY, STRANGER):
        for mode in (0o111, 0o7777, 0o2755, 0o4711, 0o1644, 0):
            world.do(who, "chmod", "x", mode)
            world.do(who, "chmod", "to", mode)
    own(world, "x", OWNER.uid, 65532, 0o644)
    for mode in (0o2755, 0o2644, 0o6777):
        world.do(OWNER, "chmod", "x", mode)
        world.do(STRANGER, "chmod", "x", mode)


def chown(kind: str, world: World) -> None:
    """Owners to others' and own groups, by path and by link, with set-ID bits that may have to go."""
    targets = (
        (123, 456),
        (-1, -1),
        (65534, -1),
        (-1, 65532),
        (65534, 65532),
        (-1, 65533),
        (-1, 65520),
        (0, 0),
        (7, -1),
    )
    make(world, kind, "x")
    world.quietly("symlink", "x", "to")
    for who in (*EVERYBODY, STRANGER):
        for mode in (0o6555, 0o4644) if kind != "link" else (0,):
            for uid, gid in targets:
                if (uid, gid) == (-1, -1) and who in (MEMBER, OTHER):
                    continue  # Linux' FUSE lets everybody pass, and the server changes nothing
                for call in ("chown", "lchown"):
                    own(world, "x", OWNER.uid, OWNER.gid, mode if kind != "link" else None)
                    world.do(who, call, "to" if call == "chown" and kind != "link" else "x", uid, gid)


def times(kind: str, world: World) -> None:
    """A change of mode or owner moves ctime, a refused one nothing."""
    make(world, kind, "x")
    for who, call, *arguments in (
        (ROOT, "chmod", 0o711),
        (ROOT, "chmod", 0o711),
        (OTHER, "chmod", 0o777),
        (ROOT, "lchown", 65534, 65533),
        (OWNER, "lchown", 65534, 65532),
        (OTHER, "lchown", 65529, -1),
        (OTHER, "lchown", -1, 65528),
        (OWNER, "lchown", -1, 65533),
        (ROOT, "lchown", 65534, 65533),
        (ROOT, "lchown", 0, 0),
        (OTHER, "lchown", -1, -1),
    ):
        if kind != "link" or call != "chmod":
            world.do(who, call, "x", *arguments)


for _kind in KINDS:
    if _kind != "link":
        add(f"chmod_of_{_kind}", chmod, _kind)
    add(f"chown_of_{_kind}", chown, _kind)
    add(f"times_around_chown_of_{_kind}", times, _kind, timed=True)


@scenario
def by_descriptor(world: World) -> None:
    world.quietly("create", "x")
    own(world, "x", OWNER.uid, OWNER.gid, 0o6777)
    for who in (*EVERYBODY, STRANGER):
        world.quietly("chmod", "x", 0o6777)
        world.do(who, "open", "x", 0, 0, ["fchown", -1, 65532], ["fstat"], ["fchmod", 0o2755], ["fstat"])


@scenario
def a_group_is_enough_for_a_group_of_ones_own(world: World) -> None:
    world.quietly("mkdir", "d")
    own(world, "d", 0, 65533, 0o770)
    for who in EVERYBODY:
        world.do(who, "create", f"d/{who.uid}")
        world.do(who, "listing", "d")
    world.do(MEMBER, "unlink", "d/0")
    world.do(OTHER, "unlink", "d/65530")

"""open: every set of flags, on every kind, by everybody."""

from __future__ import annotations

import os

from tests.conformance.actors import EVERYBODY, OTHER, OWNER, ROOT
from tests.conformance.table import KINDS, add, make, own, scenario
from tests.conformance.world import World

HOW = {
    "plain": 0,
    "create": os.O_CREAT,
    "exclusive": os.O_CREAT | os.O_EXCL,
    "truncate": os.O_TRUNC,
    "create_truncate": os.O_CREAT | os.O_TRUNC,
    "directory": os.O_DIRECTORY,
    "no_follow": os.O_NOFOLLOW,
    "path": os.O_PATH,
    "path_no_follow": os.O_PATH | os.O_NOFOLLOW,
    "append": os.O_APPEND,
    "no_atime": os.O_NOATIME,
    "synchronous": os.O_SYNC,
}


def opening(how: int, world: World) -> None:
    for kind in KINDS:
        if kind not in ("block", "char"):  # what happens there depends on how the file system was mounted
            make(world, kind, kind)
    world.quietly("symlink", "file", "to-file")
    world.quietly("symlink", "dir", "to-dir")
    world.quietly("symlink", "made", "to-made")
    for who in (ROOT, OTHER):
        for name in ("file", "dir", "fifo", "socket", "link", "to-file", "to-dir", "to-made", "missing", "file/x"):
            for access in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, 3):
                answer = world.do(who, "open", name, access | how, 0o640)
                if answer == "open" and name in ("missing", "to-made", "link"):
                    for made in ("missing", "made", "nowhere"):
                        world.attempt("unlink", made)


for _how, _flags in HOW.items():
    add(f"opening_{_how}", opening, _flags)


@scenario
def nameless_files(world: World) -> None:
    world.quietly("mkdir", "closed", 0o755)
    for who in EVERYBODY:
        for access in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            for name in ("", "closed"):
                world.do(who, "open", name, os.O_TMPFILE | access, 0o4640, ["write", "x"], ["fstat"])


@scenario
def creating_where_others_own(world: World) -> None:
    """O_CREAT on what is there already, in a sticky directory."""
    world.quietly("mkdir", "s")
    world.quietly("chmod", "s", 0o1777)
    for owner in (ROOT, OWNER, OTHER):
        world.quietly("create", f"s/{owner.uid}", 0o666)
        world.quietly("mkfifo", f"s/fifo{owner.uid}", 0o666)
        own(world, f"s/{owner.uid}", owner.uid, owner.gid)
        own(world, f"s/fifo{owner.uid}", owner.uid, owner.gid)
        for who in EVERYBODY:
            for flags in (os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_RDWR):
                world.do(who, "open", f"s/{owner.uid}", flags, 0o600)
                world.do(who, "open", f"s/fifo{owner.uid}", flags, 0o600)


@scenario(timed=True)
def times_around_opening(world: World) -> None:
    world.quietly("mkdir", "d")
    world.do(ROOT, "open", "d/new", os.O_CREAT | os.O_WRONLY, 0o644)
    world.do(ROOT, "open", "d/new", os.O_CREAT | os.O_RDONLY, 0o644)
    world.do(ROOT, "open", "d/new", os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o644)
    world.do(ROOT, "open", "d/new", os.O_WRONLY, 0, ["write", "test"])
    world.do(ROOT, "open", "d/new", os.O_WRONLY | os.O_TRUNC, 0)
    world.do(ROOT, "open", "d/new", os.O_WRONLY | os.O_TRUNC, 0)
    world.do(OTHER, "open", "d/new", os.O_WRONLY | os.O_TRUNC, 0)
    world.do(OTHER, "open", "d/other", os.O_WRONLY | os.O_CREAT, 0o644)

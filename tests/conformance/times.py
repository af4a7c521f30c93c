"""utimensat: every time, everybody, every kind."""

from __future__ import annotations

from tests.conformance.actors import EVERYBODY, NOW, OMIT, OTHER, OWNER, ROOT
from tests.conformance.table import KINDS, add, make, own, scenario
from tests.conformance.world import World

SECOND = 1_000_000_000
MOMENTS = (
    (1900000000 * SECOND, 1950000000 * SECOND),
    (1950000000 * SECOND, 1900000000 * SECOND),
    (100_000_000_100_000_000, 200_000_000_200_000_000),
    ((1 << 31) * SECOND, (1 << 32) * SECOND),
    (123, 999_999_999),
    (-1000 * SECOND, -SECOND + 5),
    (OMIT, OMIT),
    (NOW, OMIT),
    (OMIT, NOW),
    (NOW, NOW),
    (OMIT, 1900000000 * SECOND),
    (1900000000 * SECOND, OMIT),
    (NOW, 1900000000 * SECOND),
)


def setting(kind: str, world: World) -> None:
    make(world, kind, "x")
    world.quietly("symlink", "x", "to")
    for atime, mtime in MOMENTS:
        if kind in ("dir", "link") and atime == OMIT:
            continue  # to look at it is to read it
        world.do(ROOT, "utimensat", "x", atime, mtime, False)
        if kind != "link":
            world.do(ROOT, "utimensat", "to", atime, mtime)


def rights(mode: int, world: World) -> None:
    """The owner sets any time; who may write sets the present; nothing to set takes no right."""
    world.quietly("create", "x")
    own(world, "x", OWNER.uid, OWNER.gid, mode)
    for who in EVERYBODY:
        for atime, mtime in (
            (5, 6),
            (OMIT, 6),
            (5, OMIT),
            (NOW, OMIT),
            (OMIT, NOW),
            (NOW, NOW),
            (OMIT, OMIT),
            (NOW, 6),
        ):
            world.do(who, "utimensat", "x", atime, mtime)
        world.do(who, "utimes_null", "x")


for _kind in KINDS:
    add(f"setting_times_of_{_kind}", setting, _kind, timed=True)
for _mode in (0o644, 0o666, 0o444, 0o200, 0o020, 0o002, 0):
    add(f"setting_times_with_mode_{_mode:03o}", rights, _mode, timed=True)


@scenario(timed=True)
def times_of_writing(world: World) -> None:
    world.quietly("create", "x")
    for flags, *steps in (
        (1, ["write", "text"]),
        (1, ["write", "text"], ["write", "more", 100]),
        (0, ["read", 4]),
        (1, ["ftruncate", 50]),
        (1, ["ftruncate", 50]),
        (1, ["ftruncate", -1]),
        (0, ["ftruncate", 5]),
        (0o1001,),
        (0o1001,),
        (0o101,),
        (2, ["posix_fallocate", 0, 9000]),
        (2, ["posix_fallocate", 0, 100]),
        (1, ["fallocate", 1, 20000, 100]),
        (1, ["fallocate", 3, 0, 4096]),
        (1, ["posix_fallocate", 0, 0]),
        (0, ["posix_fallocate", 0, 5]),
        (1, ["fsync"]),
    ):
        world.do(ROOT, "open", "x", flags, 0o644, *steps)
    world.do(OTHER, "open", "x", 1)
    world.do(ROOT, "truncate", "x", 10)
    world.do(ROOT, "truncate", "x", 10)
    world.do(ROOT, "truncate", "x", 0)
    world.do(ROOT, "truncate", "x", 0)
    world.do(OTHER, "truncate", "x", 1)

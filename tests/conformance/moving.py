"""rename: everything onto everything, times, links, what cannot be."""

from __future__ import annotations

from tests.conformance.actors import OTHER, OWNER, ROOT
from tests.conformance.table import KINDS, add, make, own, scenario
from tests.conformance.world import World


def onto(kind: str, world: World) -> None:
    for number, target in enumerate((*KINDS, "full", "missing", "itself", "other-name")):
        source, goal = f"s{number}", f"t{number}"
        make(world, kind, source)
        if target == "full":
            world.quietly("mkdir", goal)
            world.quietly("create", f"{goal}/inside")
        elif target == "other-name" and kind != "dir":
            world.quietly("link", source, goal)
        elif target == "itself":
            goal = source
        elif target in KINDS:
            make(world, target, goal)
        world.do(ROOT, "rename", source, goal)


def times(kind: str, world: World) -> None:
    """Both directories change, and what is moved gets a new ctime where the host's file system says so."""
    for name in ("a", "b"):
        world.quietly("mkdir", name)
        world.quietly("chmod", name, 0o755)
    make(world, kind, "a/x")
    make(world, "dir" if kind == "dir" else "file", "b/over")
    world.do(ROOT, "rename", "a/x", "a/y")
    world.do(OTHER, "rename", "a/y", "a/z")
    world.do(ROOT, "rename", "a/y", "b/y")
    world.do(ROOT, "rename", "b/y", "b/over")
    world.do(ROOT, "rename", "b/missing", "b/over")
    if kind != "dir":
        world.quietly("link", "b/over", "a/second")
        world.do(ROOT, "rename", "b/over", "a/second")
        world.do(ROOT, "rename", "b/over", "a/third")


for _kind in KINDS:
    add(f"renaming_{_kind}_onto_everything", onto, _kind)
    add(f"times_around_renaming_{_kind}", times, _kind, timed=True)


@scenario
def directories_into_themselves(world: World) -> None:
    world.quietly("mkdir", "a")
    world.quietly("mkdir", "a/b")
    world.quietly("mkdir", "a/b/c")
    for source, goal in (
        ("a", "a/x"),
        ("a", "a/b/x"),
        ("a", "a/b/c"),
        ("a", "a"),
        ("a/b", "a"),
        ("a/b/c", "a"),
        ("a/.", "x"),
        ("a/..", "x"),
        ("a/b", "a/."),
        ("a/b", "a/.."),
        ("a/", "y/"),
        ("y", "z/"),
        ("z", "a/x"),
    ):
        world.do(ROOT, "rename", source, goal)


@scenario
def names_with_slashes_at_their_end(world: World) -> None:
    world.quietly("create", "f")
    world.quietly("mkdir", "d")
    world.quietly("symlink", "d", "l")
    for call, *arguments in (
        ("rename", "f/", "g"),
        ("rename", "f", "g/"),
        ("rename", "d/", "e/"),
        ("rename", "l/", "m"),
        ("unlink", "f/"),
        ("mkdir", "n/"),
        ("rmdir", "n/"),
        ("rmdir", "l/"),
        ("create", "o/"),
        ("link", "f/", "p"),
        ("link", "f", "p/"),
        ("symlink", "x", "q/"),
        ("mkfifo", "r/"),
    ):
        world.do(ROOT, call, *arguments)


@scenario
def dots(world: World) -> None:
    world.quietly("mkdir", "d")
    for call, *arguments in (
        ("rmdir", "d/."),
        ("rmdir", "d/.."),
        ("unlink", "d/."),
        ("mkdir", "d/."),
        ("mkdir", "d/.."),
        ("create", "d/.."),
        ("symlink", "x", "d/."),
        ("link", "d/.", "x"),
        ("stat", "d/../d/./../d"),
    ):
        world.do(ROOT, call, *arguments)


@scenario
def parents_count_their_directories(world: World) -> None:
    for name in ("a", "b", "a/x", "a/y", "a/x/deep"):
        world.quietly("mkdir", name)
    world.do(ROOT, "rename", "a/x", "b/x")
    world.do(ROOT, "rename", "a/y", "b/x/deep/y")
    world.do(ROOT, "stat", "b/x/deep/y/../../..")
    world.do(ROOT, "listing", "b/x/deep/y/../../../../a")
    world.do(ROOT, "rename", "b/x/deep/y", "a/y")
    world.do(ROOT, "rename", "b/x/deep", "a/y")
    world.do(ROOT, "rmdir", "a/y")
    world.do(ROOT, "rmdir", "b/x")
    world.do(ROOT, "rmdir", "b")


@scenario(timed=True)
def removing_moves_times(world: World) -> None:
    for kind in KINDS:
        world.quietly("mkdir", f"d-{kind}")
        make(world, kind, f"d-{kind}/x")
        if kind != "dir":
            world.quietly("link", f"d-{kind}/x", f"keep-{kind}")
        world.do(OTHER, "rmdir" if kind == "dir" else "unlink", f"d-{kind}/x")
        world.do(ROOT, "unlink" if kind == "dir" else "rmdir", f"d-{kind}/x")
        world.do(ROOT, "rmdir" if kind == "dir" else "unlink", f"d-{kind}/x")


@scenario
def removing_what_is_in_use(world: World) -> None:
    world.quietly("create", "f")
    own(world, "f", OWNER.uid, OWNER.gid, 0o600)
    world.quietly("link", "f", "g")
    for path in ("f", "g"):
        steps = (["write", "text"], ["unlink", world.path(path)], ["fstat"], ["write", "more", 4], ["ftruncate", 6])
        world.do(OWNER, "open", path, 2, 0, *steps, ["fstat"], ["fchmod", 0o400], ["fstat"], ["fsync"])


@scenario
def elsewhere(world: World) -> None:
    """Nothing crosses from one file system to another."""
    for kind in KINDS:
        make(world, kind, kind)
        world.do(ROOT, "rename", kind, f"{world.elsewhere}/{kind}")
        world.do(ROOT, "link", kind, f"{world.elsewhere}/{kind}")

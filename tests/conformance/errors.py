"""What cannot be: names and paths too long, links in a circle, files as directories, full directories."""

from __future__ import annotations

import os
from typing import Any

from tests.conformance.actors import OTHER, ROOT
from tests.conformance.table import add, make, scenario
from tests.conformance.world import World

CALLS: dict[str, tuple[Any, ...]] = {
    "create": ("create",),
    "open": ("open", None, os.O_RDONLY),
    "open_create": ("open", None, os.O_WRONLY | os.O_CREAT, 0o644),
    "mkdir": ("mkdir",),
    "mkfifo": ("mkfifo",),
    "mknod": ("mknod", None, "fifo"),
    "mknod_char": ("mknod", None, "char"),
    "symlink": ("symlink", "target", None),
    "link_to": ("link", "real", None),
    "link_from": ("link", None, "other"),
    "unlink": ("unlink",),
    "rmdir": ("rmdir",),
    "rename_to": ("rename", "real", None),
    "rename_from": ("rename", None, "other"),
    "chmod": ("chmod", None, 0o600),
    "chown": ("chown", None, 5, 6),
    "lchown": ("lchown", None, 5, 6),
    "truncate": ("truncate", None, 5),
    "utimensat": ("utimensat", None, 5, 6),
    "readlink": ("readlink",),
    "listing": ("listing",),
    "stat": ("stat",),
    "access": ("access", None, 0),
}


def paths(world: World) -> dict[str, str]:
    """Names for what is wrong with a path; the things that it takes are made."""
    world.quietly("create", "real")
    for name in ("file", "fifo", "socket", "char", "dir"):
        make(world, name, name)
    world.quietly("create", "dir/full")
    world.quietly("symlink", "loop-b", "loop-a")
    world.quietly("symlink", "loop-a", "loop-b")
    world.quietly("symlink", "self", "self")
    world.quietly("symlink", "gone/x", "dangling")
    world.quietly("symlink", "dir", "to-dir")
    for number in range(42):
        world.quietly("symlink", f"chain{number + 1}" if number < 41 else "file", f"chain{number}")
    return {
        "file": "file",
        "dir": "dir",
        "fifo": "fifo",
        "missing": "missing",
        "below_missing": "missing/x",
        "below_file": "file/x",
        "below_fifo": "fifo/x",
        "below_socket": "socket/x",
        "below_char": "char/x",
        "below_dangling": "dangling/x",
        "loop": "loop-a",
        "below_loop": "loop-a/x",
        "self": "self",
        "chain_of_forty": "chain2",
        "chain_of_forty_one": "chain1",
        "dangling": "dangling",
        "longest_name": "n" * 255,
        "name_too_long": "n" * 256,
        "name_too_long_below": "dir/" + "n" * 256,
        "below_name_too_long": "n" * 256 + "/x",
        "longest_path": "/" * 0 + "dir/" + "./" * 1500 + "new",
        "path_too_long": "dir/" + "./" * 2100 + "new",
        "slash": "file/",
        "dot": "dir/.",
        "dot_dot": "dir/..",
        "by_link": "to-dir/new",
        "bytes": "\x01\x7f new\n",
    }


def failing(call: str, world: World) -> None:
    name, *pattern = CALLS[call]
    for who in (ROOT, OTHER):
        for path in paths(world).values() if who is ROOT else list(_again(world)):
            arguments = [path if part is None else part for part in pattern] if pattern else [path]
            answer = world.do(who, name, *arguments)
            if answer == "done" or answer.startswith("open"):
                _restore(world, name, path)


def _again(world: World) -> list[str]:
    return ["file", "dir", "missing/x", "file/x", "loop-a", "n" * 256, "dangling/x", "to-dir/new"]


def _restore(world: World, name: str, path: str) -> None:
    """Undo what a call that succeeded made."""
    if (
        name in ("create", "open", "mkdir", "mkfifo", "mknod", "symlink", "link")
        and path
        not in (
            "file",
            "dir",
            "fifo",
        )
        and world.attempt("unlink", path) != "done"
    ):
        world.attempt("rmdir", path)
    world.attempt("unlink", "other")
    for kind in ("file", "fifo"):
        if world.attempt("stat", kind) == "ENOENT":
            make(world, kind, kind)
    if world.attempt("stat", "real") == "ENOENT":
        world.quietly("create", "real")


for _call in CALLS:
    add(f"errors_of_{_call}", failing, _call)


@scenario
def directories_that_are_not_empty(world: World) -> None:
    for kind in ("file", "dir", "fifo", "block", "char", "socket", "link"):
        world.quietly("mkdir", f"d-{kind}")
        make(world, kind, f"d-{kind}/x")
        world.do(ROOT, "rmdir", f"d-{kind}")
        world.quietly("mkdir", "other")
        world.do(ROOT, "rename", "other", f"d-{kind}")
        world.quietly("rmdir", "other")


@scenario
def the_longest_names(world: World) -> None:
    for number, kind in enumerate(("file", "dir", "fifo", "link")):
        name = f"{number}" * 255
        make(world, kind, name)
        world.do(ROOT, "rename", name, "b" * 255)
        world.do(ROOT, "rename", "b" * 255, "c" * 256)
        world.do(ROOT, "rmdir" if kind == "dir" else "unlink", "b" * 255)
    for length in (1, 100, 254, 255, 256, 1023, 4094, 4095, 4096):
        world.do(ROOT, "symlink", "t" * length, f"link{length}")
    world.do(ROOT, "symlink", "", "empty")
    world.do(ROOT, "statfs", "")

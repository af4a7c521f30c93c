"""The table of scenarios; the modules named here fill it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from tests.conformance.world import Scenario, World

MODULES = ("making", "owners", "rights", "sticky", "moving", "times", "sizes", "opening", "errors")


class Row(NamedTuple):
    """:param timed: the scenario is about times.
    :param full: it takes long.
    """

    name: str
    run: Scenario
    timed: bool
    full: bool


_rows: dict[str, Row] = {}


def add(name: str, run: Callable[..., None], *arguments: Any, timed: bool = False, full: bool = False) -> None:
    assert name not in _rows, name
    _rows[name] = Row(name, partial(run, *arguments) if arguments else run, timed, full)


def scenario(function: Scenario | None = None, *, timed: bool = False) -> Callable[..., Any]:
    """Put one function into the table."""
    if function is None:
        return partial(scenario, timed=timed)
    add(function.__name__, function, timed=timed)
    return function


def all_rows() -> list[Row]:
    for module in MODULES:
        importlib.import_module(f"tests.conformance.{module}")
    return list(_rows.values())


KINDS = ("file", "dir", "fifo", "block", "char", "socket", "link")


def make(world: World, kind: str, path: str) -> None:
    """Something of a kind, by root."""
    if kind == "file":
        world.quietly("create", path)
    elif kind == "dir":
        world.quietly("mkdir", path)
    elif kind == "fifo":
        world.quietly("mkfifo", path)
    elif kind == "socket":
        world.quietly("bind", path)
    elif kind == "link":
        world.quietly("symlink", "nowhere", path)
    else:
        world.quietly("mknod", path, kind)


def own(world: World, path: str, uid: int, gid: int, mode: int | None = None) -> None:
    """Give it to somebody, and set its mode."""
    world.quietly("lchown", path, uid, gid)
    if mode is not None:
        world.quietly("chmod", path, mode)

"""The table of POSIX cases: each a function of a view, run in an empty folder of its own.

The case modules fill it; `all_cases` imports them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from tests.posix.view import View

MODULES = (
    "names",
    "errors",
    "renames",
    "opening",
    "attributes",
    "data",
    "space",
    "links",
    "listings",
    "xattrs",
    "owners",
)


class Case(NamedTuple):
    """:param root: needs root on both sides. :param kernel: needs the checks that a kernel makes."""

    name: str
    run: Callable[[View], None]
    root: bool
    kernel: bool


_cases: dict[str, Case] = {}


def add(name: str, run: Callable[..., None], *arguments: Any, root: bool = False, kernel: bool = False) -> None:
    assert name not in _cases, name
    _cases[name] = Case(name, partial(run, *arguments) if arguments else run, root, kernel)


def case(
    function: Callable[[View], None] | None = None, *, root: bool = False, kernel: bool = False
) -> Callable[..., Any]:
    """Put one function into the table."""
    if function is None:
        return partial(case, root=root, kernel=kernel)
    add(function.__name__, function, root=root, kernel=kernel)
    return function


def all_cases() -> list[Case]:
    for module in MODULES:
        importlib.import_module(f"tests.posix.{module}_cases")
    return list(_cases.values())


# What cases need all the time


def outcome(operation: Callable[..., Any], *arguments: Any) -> int:
    """The errno, 0 for success."""
    try:
        operation(*arguments)
    except OSError as error:
        return error.errno or 0
    return 0


def put(view: View, path: bytes, data: bytes = b"", mode: int = 0o644) -> None:
    """Make a file."""
    file = view.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        if data:
            assert view.pwrite(file, data, 0) == len(data)
    finally:
        view.close(file)


def get(view: View, path: bytes, size: int = 1 << 20) -> bytes:
    """Read a file."""
    file = view.open(path, os.O_RDONLY)
    try:
        return view.pread(file, size, 0)
    finally:
        view.close(file)

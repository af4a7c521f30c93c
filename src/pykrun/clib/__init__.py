"""`libkrun.so.1`: libkrun's C interface, implemented by `pykrun.krun` (docs/libkrun-so.md).

abi is the table of the interface; header makes texts of it, builder and tools make the library, library.c is what
happens when that is loaded, and glue the way from each function in C to its namesake in Python.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own would import typing, in every program that loads the library
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["build", "find"]


def find() -> Path | None:
    """Return the folder that holds the library, None if it is not built from the sources as they are."""
    from pykrun.clib.lookup import find as do_find

    return do_find()


def build(progress: Callable[[str], None] | None = None, *, again: bool = False) -> Path:
    """See `pykrun.clib.builder.build`."""
    from pykrun.clib.builder import build as do_build

    return do_build(progress, again=again)

"""The folder that keeps what took long to build: content-keyed entries, each complete or absent."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pykrun.errors import MissingError

Progress = Callable[[str], None]
"""Takes one line that says what is being done."""


@contextmanager
def locked(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the folder for one builder; the folder is created. Waits as long as another one builds.

    :raise MissingError: the folder cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "lock").touch()
    except OSError as error:
        raise MissingError(
            f"cannot write {folder}: {error.strerror}", "set XDG_CACHE_HOME to a writable folder"
        ) from None
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another build to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder beside the entries, gone in the end. Needs the lock: remains of killed builds go too."""
    for old in folder.glob("building-*"):
        shutil.rmtree(old, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix="building-", dir=folder))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def publish(made: Path, entry: Path) -> None:
    """Put the finished folder in its place, on the same file system; an older one of that name goes first."""
    if entry.exists():
        doomed = made.with_name(made.name + "-old")
        entry.rename(doomed)
        made.rename(entry)
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        made.rename(entry)


def prune(folder: Path, pattern: str, keep: int) -> None:
    """Keep the newest entries of that pattern."""
    entries = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in entries[keep:]:
        shutil.rmtree(old, ignore_errors=True)

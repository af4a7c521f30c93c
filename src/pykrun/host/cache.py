"""Where things that were made once are kept, and how a file comes into being whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def cache_directory() -> Path:
    """Return pykrun's folder below XDG_CACHE_HOME or ~/.cache; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if base.startswith("/") else os.path.expanduser("~/.cache")) / "pykrun"


def write_atomic(path: Path, chunks: Iterable[bytes], mode: int = 0o644) -> None:
    """Write a file under a temporary name beside its own and rename it; make its folders.

    :raise OSError: the folder cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            os.fchmod(file.fileno(), mode)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def stamp(*paths: Path) -> str:
    """Return a key of files that changes whenever one is replaced or written; a stat each, their bytes are not read.

    :raise OSError: one of them is not there.
    """
    words = []
    for path in paths:
        info = os.stat(path)
        words.append(f"{info.st_dev:x}.{info.st_ino:x}.{info.st_size:x}.{info.st_mtime_ns:x}")
    return "-".join(words)

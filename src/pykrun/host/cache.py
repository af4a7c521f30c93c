"""Where things that were made once are kept, and how a file comes into being whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path


def cache_directory() -> Path:
    """Return pykrun's folder below XDG_CACHE_HOME or ~/.cache; it need not exist.

    Where the home's can neither be read nor written, nor made, it is the folder that `keep` falls back to; a home that
    is not there is not made. scripts/common.sh has the same rule.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):
        return Path(base) / "pykrun"
    home = _home()
    usable = _is_usable(home)
    return (None if usable else _spare_folder()) or Path(home) / ".cache/pykrun"


def _home() -> str:
    """What HOME says, if that is a path from the top; else the account's home."""
    home = os.environ.get("HOME", "")
    if not home.startswith("/"):
        import pwd  # a library of its own

        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            pass
    return home if home.startswith("/") else "/"


def _is_usable(home: str) -> bool:
    """Whether there is a cache to read in a home, or one can be made there."""
    folder = f"{home}/.cache/pykrun"
    return os.access(f"{folder}/.", os.R_OK | os.X_OK) or _is_writable(folder, f"{home}/.cache", home)


def _is_writable(*places: str) -> bool:
    """Whether the first of them that is there is a folder in which we can write."""
    for place in places:
        if os.path.lexists(place):
            return os.access(f"{place}/.", os.W_OK | os.X_OK)
    return False


def can_be_written() -> bool:
    """Whether the cache can be written, or made."""
    folder = cache_directory()
    return _is_writable(*map(str, (folder, *folder.parents)))


def write_atomic(path: Path, chunks: Iterable[bytes], mode: int = 0o644) -> None:
    """Write a file under a temporary name beside its own and rename it; make its folders.

    :raise OSError: the folder cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Other threads, and other containers whose processes have our number, may write the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            os.fchmod(file.fileno(), mode)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def keep(path: Path, chunks: Iterable[bytes]) -> Path:
    """Write a file of the cache that a run cannot do without, and return where it is.

    Where the cache cannot be written (a home that is read-only, or full), it goes to a folder of this user's own below
    the temporary folder, under the same name.

    :param path: below `cache_directory()`.
    :raise OSError: it can be written nowhere; the error is the cache's own.
    """
    content = list(chunks)
    try:
        write_atomic(path, content)
    except OSError:
        spare = _spare(path)
        if spare is None:
            raise
        try:
            write_atomic(spare, content)
        except OSError:
            spare = None
        if spare is None:
            raise
        return spare
    return path


def kept(path: Path) -> Path | None:
    """Return where a file of the cache is, if it is anywhere: see `keep`."""
    if path.exists():
        return path
    spare = _spare(path, make=False)
    return spare if spare is not None and spare.exists() else None


def _spare(path: Path, *, make: bool = True) -> Path | None:
    """Return the file's place below the temporary folder; None when there is none that can be trusted."""
    folder = _spare_folder(make=make)
    return None if folder is None else folder / path.relative_to(cache_directory())


def _spare_folder(*, make: bool = True) -> Path | None:
    """Return a folder of this user's own below the temporary folder; None when what is there is not ours alone."""
    user = os.geteuid()
    base = os.environ.get("TMPDIR", "")
    folder = Path(base if base.startswith("/") else "/tmp") / f"pykrun-{user}"
    try:
        if make:
            folder.mkdir(mode=0o700, exist_ok=True)
        about = os.lstat(folder)
    except OSError:
        return None
    return folder if stat.S_ISDIR(about.st_mode) and about.st_uid == user and not about.st_mode & 0o077 else None


def stamp(*paths: Path) -> str:
    """Return a key of files that changes whenever one is replaced or written; a stat each, their bytes are not read.

    :raise OSError: one of them is not there.
    """
    words = []
    for path in paths:
        info = os.stat(path)
        words.append(f"{info.st_dev:x}.{info.st_ino:x}.{info.st_size:x}.{info.st_mtime_ns:x}")
    return "-".join(words)

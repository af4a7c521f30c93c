"""Which shared libraries a program needs, so that a root can hold them and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from pykrun.errors import MissingError
from pykrun.host.cache import cache_directory, stamp, write_atomic

_LINKER_CACHE = Path("/etc/ld.so.cache")
_PT_INTERP = 3


def shared_libraries(*programs: Path) -> tuple[str, ...]:
    """Return the paths of the libraries (and of the dynamic linker) that `programs` are linked to.

    The dynamic linker itself is asked, once per program and state of the system's libraries; the answer is kept in
    the cache directory.

    :raise MissingError: a program or a library is not there.
    """
    try:
        inputs = (*programs, _LINKER_CACHE) if _LINKER_CACHE.exists() else programs
        kept = cache_directory() / "libraries" / stamp(*inputs)
    except OSError as error:
        raise MissingError(f"{error.filename}: {error.strerror}") from None
    try:
        paths = tuple(kept.read_text().split("\n"))
        if all(map(os.path.exists, paths)):
            return paths
    except OSError:
        pass
    paths = tuple(dict.fromkeys(path for program in programs for path in _ask_linker(program)))
    try:
        write_atomic(kept, ("\n".join(paths).encode(),))
    except OSError:
        pass  # no cache: ask again next time
    return paths


def search_path(libraries: tuple[str, ...]) -> str:
    """Return a LD_LIBRARY_PATH that finds `libraries` where there is no ld.so.cache."""
    return ":".join(dict.fromkeys(os.path.dirname(path) for path in libraries if ".so" in path))


def _ask_linker(program: Path) -> list[str]:
    """The paths in the answer of `ld.so --list PROGRAM`, and the linker's."""
    import subprocess

    interpreter = _interpreter(program)
    if interpreter is None:
        return []
    try:
        answer = subprocess.run(
            [interpreter, "--list", program], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingError(f"cannot find the libraries of {program}: {error}") from None
    paths = [interpreter]
    for line in answer.stdout.splitlines():
        name, _, found = line.strip().partition(" => ")
        path = (found or name).split(" (")[0]
        if path == "not found":
            raise MissingError(f"{program} needs {name}, which is not installed")
        if path.startswith("/") and path not in paths:
            paths.append(path)
    return paths


def _interpreter(program: Path) -> str | None:
    """The dynamic linker named in an ELF64 program's PT_INTERP; None for a static one.

    :raise MissingError: no such file, or no ELF64 program.
    """
    try:
        with open(program, "rb") as file:
            head = file.read(64)
            if head[:5] != b"\x7fELF\x02":
                raise MissingError(f"{program} is no 64-bit ELF program")
            offset, size, count = (int.from_bytes(head[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
            file.seek(offset)
            table = file.read(size * count)
            for entry in (table[i : i + size] for i in range(0, len(table), size)):
                if int.from_bytes(entry[:4], "little") == _PT_INTERP:
                    file.seek(int.from_bytes(entry[8:16], "little"))
                    return os.fsdecode(file.read(int.from_bytes(entry[32:40], "little")).rstrip(b"\0"))
    except OSError as error:
        raise MissingError(f"{error.filename}: {error.strerror}") from None
    return None

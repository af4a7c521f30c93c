"""Where the C library is: one folder of the cache for each interpreter and place of pykrun, rebuilt in place.

Programs keep the folder's name (in RPATH, in LD_LIBRARY_PATH), so it does not change with the content, as that of the
init blob does; the manifest inside says what it was built from.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import sysconfig
from functools import cached_property
from pathlib import Path

from pykrun.clib.pack import is_current
from pykrun.errors import MissingError
from pykrun.host.cache import cache_directory
from pykrun.host.checkout import command_for
from pykrun.record import record

FOLDER = Path(__file__).parent
SOURCE = FOLDER.parent.parent
"""What holds the package pykrun; the library imports it from there."""

LIBRARY = "libkrun.so.1"
PACK = "modules"
MANIFEST = "manifest.json"


@record(frozen=True)
class Interpreter:
    """The Python that the library brings: the one that runs this, not a virtual environment of it.

    :param program: its executable.
    :param library: its shared library, which need not exist.
    :param paths: where its standard library is.
    """

    program: Path
    library: Path
    paths: tuple[Path, ...]

    @cached_property
    def identity(self) -> str:
        """A word that differs between interpreters."""
        return "\n".join((str(self.program), str(self.library), sys.version))


def interpreter() -> Interpreter:
    """Ask the running one where it is."""
    name = str(sysconfig.get_config_var("INSTSONAME") or f"libpython3.{sys.version_info[1]}.so.1.0")
    folders = (str(sysconfig.get_config_var("LIBDIR") or ""), os.path.join(sys.base_prefix, "lib"))
    found = [Path(folder, name) for folder in folders if folder and os.path.exists(os.path.join(folder, name))]
    program = Path(getattr(sys, "_base_executable", sys.executable) or sys.executable).resolve()
    paths = tuple(Path(path) for path in (sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED")) if path)
    return Interpreter(program, found[0] if found else Path(folders[-1], name), paths)


def library_folder() -> Path:
    """The part of the cache that holds C libraries."""
    return cache_directory() / "lib"


def entry_folder(python: Interpreter) -> Path:
    """The folder of the library for an interpreter and this copy of pykrun, whether it exists or not."""
    key = hashlib.sha256(f"{python.identity}\0{SOURCE}".encode()).hexdigest()[:16]
    return library_folder() / f"cpython-{sys.version_info[0]}{sys.version_info[1]}-{key}"


def source_key(python: Interpreter) -> str:
    """A digest of what the library itself is made from. Other modules of pykrun are in its pack, see `is_current`."""
    digest = hashlib.sha256(f"{python.identity}\0{SOURCE}".encode())
    for file in sorted(file for pattern in ("*.py", "*.[ch]", "abi/*.py") for file in FOLDER.glob(pattern)):
        content = file.read_bytes()
        digest.update(f"\0{file.relative_to(FOLDER)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:24]


def find() -> Path | None:
    """The folder that holds the library, if that was built from the sources as they are."""
    python = interpreter()
    folder = entry_folder(python)
    try:
        about = json.loads((folder / MANIFEST).read_bytes())
        whole = (folder / LIBRARY).stat().st_size == about["size"] and python.library.exists()
        current = is_current((folder / PACK).read_bytes())
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return folder if whole and current and about.get("key") == source_key(python) else None


def missing(what: str, package: str) -> MissingError:
    """The error for a part that the build needs."""
    return MissingError(
        f"the C library cannot be built: {what}", f"install {package}, or run: {command_for('pykrun.clib', 'lib')}"
    )

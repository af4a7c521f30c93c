"""cffi: that of the interpreter if it has one, else one from PyPI in the cache.

The build needs all of it; the library, when it runs, needs its one extension module, which is copied beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pykrun.blob.cache import Progress, publish, scratch
from pykrun.clib import lookup
from pykrun.clib.lookup import Interpreter
from pykrun.errors import LibraryError
from pykrun.record import record

WANTED = "cffi>=1.15.1,<3"
OLDEST = (1, 15, 1)

ASK = """
import json, cffi, _cffi_backend, pycparser
print(json.dumps([cffi.__version__, _cffi_backend.__file__]))
"""


@record(frozen=True)
class Cffi:
    """A usable cffi.

    :param command: an interpreter that can import it, with its options.
    :param backend: its extension module, a file.
    """

    command: tuple[str, ...]
    version: str
    backend: Path

    def copy_backend(self, folder: Path) -> None:
        """Copy the extension module, and the library that its wheel may bring along, into a new folder."""
        folder.mkdir()
        shutil.copy2(self.backend, folder)
        for name in ("cffi.libs", "_cffi_backend.libs"):  # as auditwheel names it
            if (self.backend.parent / name).is_dir():
                shutil.copytree(self.backend.parent / name, folder / name)


def provide_cffi(python: Interpreter, progress: Progress) -> Cffi:
    """Find cffi, or fetch it. The caller holds the folder of the C libraries.

    :raise MissingError: this Python cannot make a virtual environment.
    :raise LibraryError: it cannot be fetched.
    """
    found = _ask((str(python.program), "-I"))
    if found:
        return found
    digest = hashlib.sha256(f"{python.identity}\0{WANTED}".encode()).hexdigest()[:16]
    entry = lookup.library_folder() / f"cffi-{digest}"
    command = (str(entry / "bin" / "python"), "-I")
    found = _ask(command)
    if found:
        return found
    progress("fetching cffi")
    with scratch(lookup.library_folder()) as work:
        made = work / "venv"
        _run(
            [str(python.program), "-I", "-m", "venv", str(made)],
            lookup.missing("this Python makes no environments", "python3-venv (or python3-cffi)"),
        )
        pip = [str(made / "bin" / "python"), "-I", "-m", "pip", "install", "--disable-pip-version-check", WANTED]
        _run(pip, None)
        publish(made, entry)
    found = _ask(command)
    if not found:
        raise LibraryError(f"the C library cannot be built: cffi in {entry} does not work", "remove that folder")
    return found


def _ask(command: Sequence[str]) -> Cffi | None:
    """The cffi that an interpreter can import, None if there is none or it is too old."""
    try:
        done = subprocess.run([*command, "-c", ASK], capture_output=True, text=True, check=False, timeout=60)
        version, backend = json.loads(done.stdout)
        numbers = tuple(int(number) for number in version.split(".")[:3] if number.isdecimal())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return Cffi(tuple(command), version, Path(backend)) if numbers >= OLDEST else None


def _run(command: list[str], otherwise: Exception | None) -> None:
    """Run a step; `otherwise` is raised if it fails, or an error with what it said."""
    environment = {**os.environ, "LC_ALL": "C"}  # proxies and the like
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()[-5:]
        raise otherwise or LibraryError("the C library cannot be built: cffi cannot be fetched:\n" + "\n".join(lines))

"""The C compiler for other targets than this machine: zig, from PyPI, in the cache.

One program with the headers and C libraries of every target; what it makes of the latter is kept beside it. It is
fetched only when a blob for such a target is asked for.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from pykrun.blob import recipe
from pykrun.blob.cache import Progress, locked, publish, scratch
from pykrun.blob.run import run
from pykrun.blob.targets import COMPILE_MACHINE, COMPILE_ZIG, CONFIGURE_CROSS, LINK_ZIG, PAGE, ZIG, Target
from pykrun.errors import BlobError, MissingError
from pykrun.host.cache import cache_directory
from pykrun.host.numbers import MACHINE


@dataclass(frozen=True, slots=True)
class Zig:
    """zig as the compiler for one target.

    :param program: the compiler itself, not its wrapper in Python.
    :param emulator: the command that runs the target's programs here; empty if there is none.
    """

    target: Target
    program: Path
    emulator: tuple[str, ...]

    @property
    def version(self) -> str:
        """Compiler and C library, one line."""
        return f"zig {ZIG}, {self.target.zig}"

    @property
    def flags(self) -> tuple[str, ...]:
        """Compiler options, for CPython and for our own files."""
        return (*recipe.COMPILE, *COMPILE_MACHINE[self.target.machine], *COMPILE_ZIG)

    @property
    def link(self) -> tuple[str, ...]:
        """Linker options. Those of the compiler decide how the C library is built, which is to be built once."""
        return (*self.flags, *LINK_ZIG[self.target.system], f"-Wl,-z,max-page-size={self.page}")

    @property
    def page(self) -> int:
        """For the linker's script, a whole one."""
        return PAGE[self.target.machine]

    @property
    def configure(self) -> tuple[str, ...]:
        """Words for CPython's configure beside the recipe's."""
        return (f"--build={MACHINE}-linux-gnu", f"--host={self.target.gnu}", "AR=cross-ar", *CONFIGURE_CROSS)

    def write(self, folder: Path) -> Path:
        """Write the commands `cross-cc` and `cross-ar` into the folder; return the former."""
        zig = (
            f"ZIG_GLOBAL_CACHE_DIR={shlex.quote(str(_folder() / 'built'))} "
            f"ZIG_LOCAL_CACHE_DIR={shlex.quote(str(folder / 'zig-cache'))} exec {shlex.quote(str(self.program))}"
        )
        compiler = folder / "cross-cc"
        compiler.write_text(
            "#!/bin/sh\n"
            "# configure compares this with its own idea of the platform, which has no name for these\n"
            'case "$*" in *print-multiarch*) exit 0 ;; esac\n'
            f'{zig} cc -target {self.target.zig} "$@"\n'
        )
        archiver = folder / "cross-ar"
        archiver.write_text(f'#!/bin/sh\n{zig} ar "$@"\n')
        for command in (compiler, archiver):
            command.chmod(0o755)
        return compiler


def _folder() -> Path:
    return cache_directory() / "zig"


def find_zig(target: Target) -> Zig | None:
    """The compiler for a target, None before it was fetched or where the target's emulator is missing."""
    program = _folder() / ZIG / "zig"
    emulator = _emulator(target)
    return Zig(target, program, emulator or ()) if program.is_file() and emulator is not None else None


def provide_zig(target: Target, log: Path, progress: Progress) -> Zig:
    """The compiler for a target, fetched first if need be.

    :raise MissingError: the emulator for the target is missing, or what fetches the compiler.
    :raise BlobError: it cannot be fetched.
    """
    if _emulator(target) is None:
        raise MissingError(
            f"there is nothing that runs programs of {target.machine} here, which the snapshot takes",
            "install qemu-user; ./setup cross does",
        )
    folder = _folder()
    with locked(folder, progress):
        if not (folder / ZIG).exists():
            with scratch(folder) as work:
                publish(_fetch(work, log, progress), folder / ZIG)
    found = find_zig(target)
    if found is None:
        raise BlobError(f"{folder / ZIG} holds no compiler", "remove it and build again")
    return found


def _emulator(target: Target) -> tuple[str, ...] | None:
    """Nothing for FreeBSD, whose programs nothing runs here."""
    if target.system != "linux" or target.machine == MACHINE:
        return ()
    program = shutil.which(f"qemu-{target.machine}") or shutil.which(f"qemu-{target.machine}-static")
    return None if program is None else (program,)


def _fetch(work: Path, log: Path, progress: Progress) -> Path:
    """Install it into a virtual environment; return the part of that which is needed."""
    progress(f"fetching the compiler zig {ZIG} (100 MB)")
    environment = {**os.environ, "LC_ALL": "C"}  # proxies and the like
    venv = work / "venv"
    try:
        run([sys.executable, "-m", "venv", str(venv)], cwd=work, log=log, environment=environment)
        pip = [
            str(venv / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
        ]
        pip.append(f"ziglang=={ZIG}")
        run(pip, cwd=work, log=log, environment=environment)
    except BlobError as error:
        raise BlobError(f"the compiler zig cannot be fetched: {error.message}", error.hint) from error
    for found in venv.glob("lib/python*/site-packages/ziglang"):
        return found
    raise BlobError("the package ziglang is not what it was", f"all of it: {log}")

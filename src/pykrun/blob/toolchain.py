"""What this machine can build with, and the packages that bring what it lacks (names as in Debian and Ubuntu)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pykrun.blob import recipe
from pykrun.blob.targets import COMPILE_MACHINE, PAGE, TARGETS, Target
from pykrun.blob.zig import Zig
from pykrun.host.numbers import MACHINE

SNAPSHOT_PROGRAMS = {
    "musl-gcc": "musl-tools",
    "gcc": "gcc",
    "ld": "binutils",
    "make": "make",
    "apt-get": "apt",
    "dpkg-source": "dpkg-dev",
}
"""Programs of the snapshot recipe, and the package of each."""

KERNEL_HEADERS = "linux-libc-dev"

NATIVE_PACKAGES = ("gcc", "libc6-dev", f"python{recipe.PYTHON}", f"libpython{recipe.PYTHON}-dev")


@dataclass(frozen=True, slots=True)
class Musl:
    """What the snapshot recipe needs for this machine itself: gcc with musl. The properties are those of `Zig`.

    :param multiarch: the folder of /usr/include that holds the asm headers.
    :param version: compiler and C library, one line.
    """

    multiarch: str
    version: str

    @property
    def target(self) -> Target:
        """This machine."""
        return TARGETS[MACHINE]

    @property
    def emulator(self) -> tuple[str, ...]:
        """None is needed."""
        return ()

    @property
    def flags(self) -> tuple[str, ...]:
        """Compiler options, for CPython and for our own files."""
        return (*recipe.COMPILE, *COMPILE_MACHINE[MACHINE])

    @property
    def link(self) -> tuple[str, ...]:
        """Linker options."""
        return (*recipe.LINK, f"-Wl,-z,max-page-size={PAGE[MACHINE]}")

    @property
    def page(self) -> int | None:
        """For the linker's script: None where the linker's own is good enough, with additions."""
        return None if PAGE[MACHINE] == PAGE["x86_64"] else PAGE[MACHINE]

    @property
    def configure(self) -> tuple[str, ...]:
        """Words for CPython's configure beside the recipe's."""
        return ()

    def write(self, folder: Path) -> Path:
        """Write the command `musl-cc` into the folder: musl-gcc with the kernel's headers, which musl does not bring,
        behind its own."""
        headers = folder / "kernel-headers"
        headers.mkdir()
        (headers / "linux").symlink_to("/usr/include/linux")
        (headers / "asm-generic").symlink_to("/usr/include/asm-generic")
        multiarch = Path("/usr/include", self.multiarch, "asm")
        (headers / "asm").symlink_to(multiarch if multiarch.exists() else "/usr/include/asm")
        compiler = folder / "musl-cc"
        compiler.write_text(
            "#!/bin/sh\n"
            "# configure compares this with its own idea of the platform, which has no name for musl\n"
            'case "$*" in *print-multiarch*) exit 0 ;; esac\n'
            f'exec musl-gcc -idirafter "{headers}" "$@"\n'
        )
        compiler.chmod(0o755)
        return compiler


Toolchain = Musl | Zig
"""What compiles and links for one target."""


@dataclass(frozen=True, slots=True)
class Native:
    """What the native recipe needs.

    :param python: an interpreter of the same minor version as the archive.
    :param archive: libpython as a static archive.
    :param includes: folders of its headers.
    :param version: compiler and CPython, one line.
    """

    python: str
    archive: Path
    includes: tuple[str, ...]
    version: str


def missing_packages() -> list[str]:
    """Packages the snapshot recipe lacks here; empty when all is there."""
    missing = [package for program, package in SNAPSHOT_PROGRAMS.items() if shutil.which(program) is None]
    if not Path("/usr/include/linux/netlink.h").exists():
        missing.append(KERNEL_HEADERS)
    return missing


def find_musl() -> Musl | None:
    """The static musl toolchain, None when something is missing."""
    if missing_packages() or MACHINE not in TARGETS:
        return None
    compiler = _first_line(["musl-gcc", "--version"])
    multiarch = _first_line(["gcc", "-print-multiarch"])
    library = _first_line(["dpkg-query", "-W", "-f", "${Version}", "musl-dev"])
    if not compiler:
        return None
    return Musl(multiarch, f"{compiler.removeprefix('cc ').removeprefix('gcc ')}, musl {library or 'unknown'}")


def find_native() -> Native | None:
    """CPython's static archive as the system has it, None when there is none or no compiler."""
    compiler = _first_line(["gcc", "--version"]) if shutil.which("gcc") else ""
    if not compiler:
        return None
    for python in _pythons():
        answer = _first_line([python, "-I", "-S", "-c", _ASK])
        fields = answer.split("|")
        if len(fields) == 5 and fields[0] == recipe.PYTHON and Path(fields[1]).is_file():
            version = f"{compiler.removeprefix('gcc ')}, CPython {fields[4]} of {python}"
            return Native(python, Path(fields[1]), (fields[2], fields[3]), version)
    return None


_ASK = (
    "import sys, sysconfig as s; g = s.get_config_var; "
    "print('%d.%d' % sys.version_info[:2], g('LIBPL') + '/libpython' + g('VERSION') + '.a', s.get_path('include'), "
    "s.get_path('platinclude'), sys.version.split()[0], sep='|')"
)


def _pythons() -> list[str]:
    name = f"python{recipe.PYTHON}"
    found = [shutil.which(name, path="/usr/bin"), shutil.which(name)]
    if sys.version_info[:2] == (3, 11):
        found.append(sys.executable)
    return list(dict.fromkeys(path for path in found if path))


def _first_line(command: list[str]) -> str:
    """What the program says, one line; empty when it cannot be asked."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").partition("\n")[0].strip()

"""CPython's core as a static archive for musl: the long part of the build, kept apart in the cache.

One entry holds what the last stage needs: the archive, the headers, and `_bootstrap_python`, the interpreter that
CPython builds for its own freezing, with the pure Python modules it needs to run our freeze.py. Because of it no Python
of that version has to be installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from pykrun.blob import recipe
from pykrun.blob.cache import Progress, locked, prune, publish, scratch
from pykrun.blob.run import BUILD_ENVIRONMENT, run, tool_path
from pykrun.blob.source import fetch
from pykrun.blob.toolchain import Musl
from pykrun.errors import BlobError
from pykrun.host.cache import cache_directory

FORMAT = "1"
"""Changes when an entry's layout does."""

LIBRARY = f"libpython{recipe.PYTHON}.a"
LIB_PACKAGES = ("collections", "encodings", "importlib", "re")
KEPT = 3


@dataclass(frozen=True, slots=True)
class Archive:
    """One entry of the cache.

    :param folder: holds `build` and `src`, each like the folder of that name in CPython's own build.
    :param version: the distribution's version of the package.
    """

    folder: Path
    version: str

    @property
    def library(self) -> Path:
        """The static library."""
        return self.folder / "build" / LIBRARY

    @property
    def python(self) -> Path:
        """The interpreter of exactly that version."""
        return self.folder / "build" / "_bootstrap_python"

    @property
    def includes(self) -> list[Path]:
        """Folders for the compiler's -I."""
        src, build = self.folder / "src", self.folder / "build"
        return [build, build / "Python", src / "Include", src / "Include" / "internal"]


def provide(musl: Musl, log: Path, progress: Progress) -> Archive:
    """The archive from the cache, built first if need be.

    :raise BlobError: the source cannot be had or does not build.
    """
    folder = cache_directory() / "cpython"
    entry = folder / _key(musl)
    kept = _load(entry)
    if kept:
        return kept
    with locked(folder, progress):
        kept = _load(entry)  # somebody else may have built it while we waited
        if kept:
            return kept
        with scratch(folder) as work:
            publish(_build(work, musl, log, progress), entry)
        prune(folder, "[0-9a-f]*", KEPT)
    kept = _load(entry)
    if not kept:
        raise BlobError(f"the cache's entry {entry} is not complete", "remove it and build again")
    return kept


def write_compiler(folder: Path, musl: Musl) -> Path:
    """A compiler command: musl-gcc with the kernel's headers, which musl does not bring, behind its own."""
    headers = folder / "kernel-headers"
    headers.mkdir()
    (headers / "linux").symlink_to("/usr/include/linux")
    (headers / "asm-generic").symlink_to("/usr/include/asm-generic")
    multiarch = Path("/usr/include", musl.multiarch, "asm")
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


def _key(musl: Musl) -> str:
    parts = [FORMAT, recipe.PYTHON, musl.version, recipe.setup_local(), *recipe.COMPILE, *recipe.CONFIGURE]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _load(entry: Path) -> Archive | None:
    try:
        about = json.loads((entry / "manifest.json").read_bytes())
        archive = Archive(entry, str(about["version"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return archive if archive.library.is_file() and archive.python.is_file() else None


def _build(work: Path, musl: Musl, log: Path, progress: Progress) -> Path:
    source, version = fetch(work, log, progress)
    build = work / "build"
    build.mkdir()
    compiler = write_compiler(work, musl)
    environment = {
        "PATH": f"{compiler.parent}:{tool_path()}",  # by name only: make splits a path at white space
        "SOURCE_DATE_EPOCH": recipe.SOURCE_DATE_EPOCH,
        **BUILD_ENVIRONMENT,
    }
    progress("configuring CPython (about half a minute)")
    flags = " ".join(recipe.COMPILE)
    # paths are relative, so that none of this machine ends up in the archive
    configure = [
        "../src/configure",
        f"CC={compiler.name}",
        f"CFLAGS={flags}",
        "LDFLAGS=-static -no-pie",
        *recipe.CONFIGURE,
    ]
    run(configure, cwd=build, log=log, environment=environment)
    (build / "Modules" / "Setup.local").write_text(recipe.setup_local())
    progress("compiling CPython's core (about a minute)")
    jobs = len(os.sched_getaffinity(0))
    run(["make", f"-j{jobs}", LIBRARY], cwd=build, log=log, environment=environment)
    return _collect(work, source, build, version)


def _collect(work: Path, source: Path, build: Path, version: str) -> Path:
    """The part of the build that is kept."""
    made = work / "made"
    for name in (LIBRARY, "_bootstrap_python", "pyconfig.h", "Modules/Setup.local"):
        (made / "build" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(build / name, made / "build" / name)
    shutil.copytree(build / "Python" / "frozen_modules", made / "build" / "Python" / "frozen_modules")
    shutil.copytree(source / "Include", made / "src" / "Include")
    (made / "src" / "Lib").mkdir()
    for module in (source / "Lib").glob("*.py"):
        shutil.copy2(module, made / "src" / "Lib")
    for package in LIB_PACKAGES:
        shutil.copytree(source / "Lib" / package, made / "src" / "Lib" / package)
    (made / "manifest.json").write_text(json.dumps({"version": version}))
    return made

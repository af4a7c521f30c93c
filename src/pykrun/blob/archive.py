"""CPython's core as a static archive for one target: the long part of the build, kept apart in the cache.

An entry holds what the last stage needs: the archive and the headers. That for this machine itself also has
`_bootstrap_python`, the interpreter that CPython builds for its own freezing, with the pure Python modules it needs to
run our freeze.py. Because of it no Python of that version has to be installed, and it is the Python that a build for
another target needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from pykrun.blob import recipe
from pykrun.blob.cache import Progress, locked, prune, publish, scratch
from pykrun.blob.run import BUILD_ENVIRONMENT, run, tool_path
from pykrun.blob.source import fetch
from pykrun.blob.targets import PATCHES, Target
from pykrun.blob.toolchain import Toolchain, find_musl, missing_packages
from pykrun.errors import BlobError, MissingError
from pykrun.host.cache import cache_directory

FORMAT = "1"
"""Changes when an entry's layout does."""

LIBRARY = f"libpython{recipe.PYTHON}.a"
PYTHON = "_bootstrap_python"
LIB_PACKAGES = ("collections", "encodings", "importlib", "re")
KEPT = 3


@dataclass(frozen=True, slots=True)
class Archive:
    """One entry of the cache.

    :param folder: holds `build` and `src`, each like the folder of that name in CPython's own build.
    :param version: the distribution's version of the package.
    :param python: an interpreter of that minor version, which runs here.
    """

    folder: Path
    version: str
    python: Path

    @property
    def library(self) -> Path:
        """The static library."""
        return self.folder / "build" / LIBRARY

    @property
    def includes(self) -> list[Path]:
        """Folders for the compiler's -I."""
        src, build = self.folder / "src", self.folder / "build"
        return [build, build / "Python", src / "Include", src / "Include" / "internal"]


def provide(toolchain: Toolchain, log: Path, progress: Progress) -> Archive:
    """The archive from the cache, built first if need be. For another target than this machine that takes this
    machine's own first.

    :raise BlobError: the source cannot be had or does not build.
    :raise MissingError: what builds this machine's own is missing.
    """
    python = None if toolchain.target.is_native else _native(log, progress).python
    folder = cache_directory() / "cpython"
    kind = "" if python is None else f"target-{toolchain.target.name}-"
    entry = folder / f"{kind}{_key(toolchain)}"
    kept = _load(entry, python)
    if kept:
        return kept
    with locked(folder, progress):
        kept = _load(entry, python)  # somebody else may have built it while we waited
        if kept:
            return kept
        with scratch(folder) as work:
            publish(_build(work, toolchain, python, log, progress), entry)
        prune(folder, f"{kind or '[0-9a-f]'}*", KEPT)
    kept = _load(entry, python)
    if not kept:
        raise BlobError(f"the cache's entry {entry} is not complete", "remove it and build again")
    return kept


def _native(log: Path, progress: Progress) -> Archive:
    musl = find_musl()
    if musl is None:
        raise MissingError(
            "a build for another machine takes one for this machine first, and its toolchain is missing",
            f"install: {' '.join(missing_packages())}",
        )
    return provide(musl, log, progress)


def _key(toolchain: Toolchain) -> str:
    parts = [FORMAT, recipe.PYTHON, toolchain.version, recipe.setup_local(), *toolchain.flags, *recipe.CONFIGURE]
    parts += [*toolchain.configure, *(word for patch in PATCHES[toolchain.target.system] for word in patch)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _load(entry: Path, python: Path | None) -> Archive | None:
    """The entry if it is complete.

    :param python: None for the entry's own.
    """
    try:
        about = json.loads((entry / "manifest.json").read_bytes())
        archive = Archive(entry, str(about["version"]), python or entry / "build" / PYTHON)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return archive if archive.library.is_file() and archive.python.is_file() else None


def _build(work: Path, toolchain: Toolchain, python: Path | None, log: Path, progress: Progress) -> Path:
    target = toolchain.target
    source, version = fetch(work, log, progress)
    _patch(source, target)
    build = work / "build"
    build.mkdir()
    compiler = toolchain.write(work)
    environment = {
        "PATH": f"{compiler.parent}:{tool_path()}",  # by name only: make splits a path at white space
        "SOURCE_DATE_EPOCH": recipe.SOURCE_DATE_EPOCH,
        **BUILD_ENVIRONMENT,
    }
    progress(f"configuring CPython for {target.name} ({'half a minute' if python is None else 'a minute or two'})")
    flags = " ".join(toolchain.flags)
    # paths are relative, so that none of this machine ends up in the archive
    configure = [
        "../src/configure",
        f"CC={compiler.name}",
        f"CFLAGS={flags}",
        f"LDFLAGS={'-static ' if target.system == 'linux' else ''}-no-pie",
        *recipe.CONFIGURE,
        *toolchain.configure,
        *([] if python is None else _native_tools(work, python)),
    ]
    run(configure, cwd=build, log=log, environment=environment)
    (build / "Modules" / "Setup.local").write_text(recipe.setup_local())
    progress(f"compiling CPython's core for {target.name} (about a minute)")
    jobs = len(os.sched_getaffinity(0))
    run(["make", f"-j{jobs}", LIBRARY], cwd=build, log=log, environment=environment)
    return _collect(work, source, build, version, own_python=python is None)


def _native_tools(folder: Path, python: Path) -> list[str]:
    """Name programs of this machine that configure wants for another; the folder is on PATH.

    That Python runs files only; what configure asks by `-c` is the version. And a readelf that reads files of another
    machine could not be called just that.
    """
    command = folder / "build-python"
    command.write_text(
        f'#!/bin/sh\n[ "$1" != -c ] || {{ echo {recipe.PYTHON}; exit; }}\nexec {shlex.quote(str(python))} "$@"\n'
    )
    command.chmod(0o755)
    return [f"--with-build-python={command.name}", f"READELF={shutil.which('readelf')}"]


def _patch(source: Path, target: Target) -> None:
    for name, place, text in PATCHES[target.system]:
        file = source / name
        about = file.stat()
        content = file.read_text(encoding="utf-8")
        if content.count(place) != 1:
            raise BlobError(f"CPython's {name} is not what the patch for {target.system} was made for")
        file.write_text(content.replace(place, text + place), encoding="utf-8")
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))  # else make would want to make it anew


def _collect(work: Path, source: Path, build: Path, version: str, *, own_python: bool) -> Path:
    """The part of the build that is kept."""
    made = work / "made"
    for name in (LIBRARY, *([PYTHON] if own_python else []), "pyconfig.h", "Modules/Setup.local"):
        (made / "build" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(build / name, made / "build" / name)
    shutil.copytree(build / "Python" / "frozen_modules", made / "build" / "Python" / "frozen_modules")
    shutil.copytree(source / "Include", made / "src" / "Include")
    if own_python:
        (made / "src" / "Lib").mkdir()
        for module in (source / "Lib").glob("*.py"):
            shutil.copy2(module, made / "src" / "Lib")
        for package in LIB_PACKAGES:
            shutil.copytree(source / "Lib" / package, made / "src" / "Lib" / package)
    (made / "manifest.json").write_text(json.dumps({"version": version}))
    return made

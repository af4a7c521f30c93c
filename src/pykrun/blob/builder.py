"""From nothing to a blob in the cache."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from pykrun.blob import lookup, recipe
from pykrun.blob.archive import provide
from pykrun.blob.cache import Progress, locked, prune, publish, scratch
from pykrun.blob.image import make_frozen, make_native, make_snapshot
from pykrun.blob.lookup import Blob
from pykrun.blob.switches import MODULE, Choice, chosen
from pykrun.blob.targets import TARGETS, Target
from pykrun.blob.toolchain import NATIVE_PACKAGES, Native, Toolchain, find_musl, find_native, missing_packages
from pykrun.blob.zig import Zig, find_zig, provide_zig
from pykrun.errors import BlobError, MissingError, UsageError
from pykrun.host.numbers import MACHINE

ATTEMPTS = 3
"""Builds in a row, should the sources change meanwhile."""

REPLACED = (f"{MODULE}=switches",)
"""Modules that are not taken from the package as they are, and the file in the build's folder that is."""

KEPT = 24
"""Blobs of older sources that stay in the cache."""


def build(
    arch: str = MACHINE,
    progress: Progress | None = None,
    *,
    again: bool = False,
    with_parts: Iterable[str] = (),
    without_parts: Iterable[str] = (),
) -> Blob:
    """The blob for the sources as they are; built when the cache does not have it.

    With the musl toolchain it is a snapshot. Without it, or when CPython's source cannot be had, a native build is the
    fallback, with a warning on standard error; it is replaced as soon as a snapshot can be made. For another target
    than this machine there is no fallback; its compiler is fetched.

    :param arch: a key of `targets.TARGETS`.
    :param progress: called with one line for each step.
    :param again: build even when the cache has it (CPython's archive is taken from the cache).
    :param with_parts: switches to turn on (`recipe.SWITCHES`); with `without_parts`, those to turn off.
    :raise UsageError: unknown architecture or switch, or SOURCE_DATE_EPOCH is no date.
    :raise MissingError: neither kind can be built here; the hint names the packages.
    :raise BlobError: the build failed.
    """
    if arch not in TARGETS:
        raise UsageError(f"no init blob for {arch}", f"there are: {', '.join(TARGETS)}")
    target = TARGETS[arch]
    choice = chosen(with_parts, without_parts)
    report = progress or (lambda line: None)
    blob = lookup.given(arch)
    if blob:
        return blob
    if not lookup.GUEST_FOLDER.is_dir():
        raise MissingError("the sources of krun_init are not there", f"expected in {lookup.GUEST_FOLDER}")
    toolchain: Toolchain | None = find_musl() if target.is_native else find_zig(target)
    if not again and (blob := _usable(target, choice, toolchain)):
        return blob
    folder = lookup.blob_folder()
    if not target.is_native:
        toolchain = _prepare(target, report)
    with locked(folder, report):
        if not again and (blob := _usable(target, choice, toolchain)):  # built while we waited
            return blob
        for _ in range(ATTEMPTS):
            with scratch(folder) as work:
                _build(target, choice, toolchain, work, report)
            blob = lookup.cached(arch, choice.suffix)
            if blob:
                prune(folder, f"{arch}-*", KEPT)
                return blob
    raise BlobError("the sources of the init blob change faster than it is built")


def _prepare(target: Target, report: Progress) -> Zig:
    """What takes minutes of a build for another target, done before it: it keeps nobody from building for another."""
    log = _log(target)
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log.write_text("")
    zig = provide_zig(target, log, report)
    provide(zig, log, report)
    return zig


def _log(target: Target) -> Path:
    return lookup.blob_folder() / ("build.log" if target.is_native else f"build-{target.name}.log")


def _usable(target: Target, choice: Choice, toolchain: Toolchain | None) -> Blob | None:
    """What the cache has, unless this machine could do better."""
    blob = lookup.cached(target.name, choice.suffix)
    kind = "snapshot" if target.system == "linux" else "frozen"
    if blob and toolchain and not (blob.recipe == kind and blob.builder.startswith(toolchain.version)):
        return None
    return blob


def _build(target: Target, choice: Choice, toolchain: Toolchain | None, work: Path, report: Progress) -> None:
    arch = target.name
    entry = lookup.entry_folder(arch, choice.suffix)
    log = _log(target)
    if target.is_native:
        log.write_text("")
    made = work / "made"
    made.mkdir()
    stage = work / "stage"
    stage.mkdir()
    _write_switches(choice, stage)
    if toolchain:
        make = _snapshot if target.system == "linux" else _frozen
        image, about = make(toolchain, stage, log, report)
    else:
        reason = f"the static musl toolchain is missing (install: {' '.join(missing_packages())})"
        image, about = _native(reason, None, stage, log, report)
    image.rename(made / "init")
    (made / "init").chmod(0o755)
    parts = choice.parts if target.system == "linux" else ()  # they are parts of Linux' init
    about |= {"arch": arch, "size": (made / "init").stat().st_size, "switches": parts}
    (made / "manifest.json").write_text(json.dumps(about))
    if lookup.entry_folder(arch, choice.suffix) == entry:  # else the sources changed: this is neither old nor new
        publish(made, entry)
        report("the init blob is ready")


def _write_switches(choice: Choice, stage: Path) -> None:
    text = (lookup.GUEST_FOLDER / "switches.py").read_text(encoding="utf-8")
    (stage / "switches").write_text(choice.rewrite(text), encoding="utf-8")


def _snapshot(toolchain: Toolchain, stage: Path, log: Path, report: Progress) -> tuple[Path, dict[str, object]]:
    try:
        archive = provide(toolchain, log, report)
    except BlobError as error:
        if not toolchain.target.is_native:
            raise
        return _native(f"CPython's static core could not be built: {error.message}", error, stage, log, report)
    report("linking the init blob and saving it after its initialisation")
    image = make_snapshot(lookup.GUEST_FOLDER, archive, toolchain, stage, log, start=recipe.START, replaced=REPLACED)
    return image, {"recipe": "snapshot", "builder": f"{toolchain.version}, CPython {archive.version}"}


def _frozen(toolchain: Toolchain, stage: Path, log: Path, report: Progress) -> tuple[Path, dict[str, object]]:
    archive = provide(toolchain, log, report)
    report(f"linking the init blob for {toolchain.target.name}")
    image = make_frozen(lookup.GUEST_FOLDER, archive, toolchain, stage, log, replaced=REPLACED)
    return image, {"recipe": "frozen", "builder": f"{toolchain.version}, CPython {archive.version}"}


def _native(
    reason: str, cause: BlobError | None, stage: Path, log: Path, report: Progress
) -> tuple[Path, dict[str, object]]:
    native: Native | None = find_native()
    if native is None:
        if cause:
            raise cause
        packages = " ".join(missing_packages())
        raise MissingError(
            "the init blob cannot be built here",
            f"install: {packages} (or, for a slower one: {' '.join(NATIVE_PACKAGES)})",
        )
    sys.stderr.write(f"pykrun: warning: {reason}; building a slower init blob from the system's libpython\n")
    report("linking the init blob from the system's libpython")
    image = make_native(lookup.GUEST_FOLDER, native, stage, log, replaced=REPLACED)
    return image, {"recipe": "native", "builder": native.version}

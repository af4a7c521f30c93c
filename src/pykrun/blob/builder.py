"""From nothing to a blob in the cache."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from pykrun.blob import lookup, recipe
from pykrun.blob.archive import provide
from pykrun.blob.cache import Progress, locked, prune, publish, scratch
from pykrun.blob.image import make_native, make_snapshot
from pykrun.blob.lookup import Blob
from pykrun.blob.switches import MODULE, Choice, chosen
from pykrun.blob.toolchain import NATIVE_PACKAGES, Musl, Native, find_musl, find_native, missing_packages
from pykrun.errors import BlobError, MissingError, UsageError

ATTEMPTS = 3
"""Builds in a row, should the sources change meanwhile."""

REPLACED = (f"{MODULE}=switches",)
"""Modules that are not taken from the package as they are, and the file in the build's folder that is."""

KEPT = 24
"""Blobs of older sources that stay in the cache."""


def build(
    arch: str = "x86_64",
    progress: Progress | None = None,
    *,
    again: bool = False,
    with_parts: Iterable[str] = (),
    without_parts: Iterable[str] = (),
) -> Blob:
    """The blob for the sources as they are; built when the cache does not have it.

    With the musl toolchain it is a snapshot. Without it, or when CPython's source cannot be had, a native build is the
    fallback, with a warning on standard error; it is replaced as soon as a snapshot can be made.

    :param progress: called with one line for each step.
    :param again: build even when the cache has it (CPython's archive is taken from the cache).
    :param with_parts: switches to turn on (`recipe.SWITCHES`); with `without_parts`, those to turn off.
    :raise UsageError: unknown architecture or switch, or SOURCE_DATE_EPOCH is no date.
    :raise MissingError: neither kind can be built here; the hint names the packages.
    :raise BlobError: the build failed.
    """
    if arch not in lookup.ARCHITECTURES:
        raise UsageError(f"no init blob for {arch}", f"there are: {', '.join(lookup.ARCHITECTURES)}")
    choice = chosen(with_parts, without_parts)
    report = progress or (lambda line: None)
    blob = lookup.given(arch)
    if blob:
        return blob
    if not lookup.GUEST_FOLDER.is_dir():
        raise MissingError("the sources of krun_init are not there", f"expected in {lookup.GUEST_FOLDER}")
    musl = find_musl()
    if not again and (blob := _usable(arch, choice, musl)):
        return blob
    folder = lookup.blob_folder()
    with locked(folder, report):
        if not again and (blob := _usable(arch, choice, musl)):  # built while we waited
            return blob
        for _ in range(ATTEMPTS):
            with scratch(folder) as work:
                _build(arch, choice, musl, work, report)
            blob = lookup.cached(arch, choice.suffix)
            if blob:
                prune(folder, f"{arch}-*", KEPT)
                return blob
    raise BlobError("the sources of the init blob change faster than it is built")


def _usable(arch: str, choice: Choice, musl: Musl | None) -> Blob | None:
    """What the cache has, unless this machine could do better."""
    blob = lookup.cached(arch, choice.suffix)
    if blob and musl and not (blob.recipe == "snapshot" and blob.builder.startswith(musl.version)):
        return None
    return blob


def _build(arch: str, choice: Choice, musl: Musl | None, work: Path, report: Progress) -> None:
    entry = lookup.entry_folder(arch, choice.suffix)
    log = lookup.blob_folder() / "build.log"
    log.write_text("")
    made = work / "made"
    made.mkdir()
    stage = work / "stage"
    stage.mkdir()
    _write_switches(choice, stage)
    if musl:
        image, about = _snapshot(musl, stage, log, report)
    else:
        reason = f"the static musl toolchain is missing (install: {' '.join(missing_packages())})"
        image, about = _native(reason, None, stage, log, report)
    image.rename(made / "init")
    (made / "init").chmod(0o755)
    about |= {"arch": arch, "size": (made / "init").stat().st_size, "switches": choice.parts}
    (made / "manifest.json").write_text(json.dumps(about))
    if lookup.entry_folder(arch, choice.suffix) == entry:  # else the sources changed: this is neither old nor new
        publish(made, entry)
        report("the init blob is ready")


def _write_switches(choice: Choice, stage: Path) -> None:
    text = (lookup.GUEST_FOLDER / "switches.py").read_text(encoding="utf-8")
    (stage / "switches").write_text(choice.rewrite(text), encoding="utf-8")


def _snapshot(musl: Musl, stage: Path, log: Path, report: Progress) -> tuple[Path, dict[str, object]]:
    try:
        archive = provide(musl, log, report)
    except BlobError as error:
        return _native(f"CPython's static core could not be built: {error.message}", error, stage, log, report)
    report("linking the init blob and saving it after its initialisation")
    image = make_snapshot(lookup.GUEST_FOLDER, archive, musl, stage, log, start=recipe.START, replaced=REPLACED)
    return image, {"recipe": "snapshot", "builder": f"{musl.version}, CPython {archive.version}"}


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

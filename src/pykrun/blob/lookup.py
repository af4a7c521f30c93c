"""Where the init blob is. Fast: this is on the way of every `pykrun run`."""

from __future__ import annotations

import json
import os
import stat
import time
from functools import cached_property
from pathlib import Path

from pykrun.errors import BlobError, MissingError, UsageError
from pykrun.host.cache import cache_directory, write_atomic
from pykrun.host.checkout import command_for
from pykrun.host.numbers import MACHINE
from pykrun.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OVERRIDE = "KRUN_INIT_BINARY_PATH"
"""Environment variable: a file to take instead of the blob, whatever it holds."""

DATE = "SOURCE_DATE_EPOCH"
"""Environment variable of the build (reproducible-builds.org): seconds since the epoch."""

ARCHITECTURES = ("x86_64", "aarch64", "freebsd-x86_64", "freebsd-aarch64")
"""The names in `pykrun.blob.targets`, which is not for the run path."""

FOLDER = Path(__file__).parent
GUEST_FOLDER = FOLDER.parent.parent / "krun_init"
"""The guest's Python: beside the package pykrun, in a checkout and when installed."""

SETTLED_NS = 2_000_000_000
"""A file changed this short a time ago could change again without its times telling."""


@record(frozen=True)
class Blob:
    """The bytes of init as a file.

    :param path: the file.
    :param size: its size in bytes.
    :param arch: what it runs on: a member of ARCHITECTURES, for Linux as `uname -m` says.
    :param recipe: how it was made: `snapshot` (musl, saved after initialisation), `native` (static glibc), `frozen`
        (for FreeBSD) or `given` (by KRUN_INIT_BINARY_PATH).
    :param builder: compiler and CPython it was built with; empty if given.
    :param switches: optional parts that are in.
    """

    path: Path
    size: int
    arch: str
    recipe: str
    builder: str
    switches: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes, in hexadecimal."""
        import hashlib

        return hashlib.sha256(self.read()).hexdigest()

    def read(self) -> bytes:
        """The bytes.

        :raise BlobError: the file cannot be read.
        """
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise BlobError(f"the init blob {self.path} cannot be read: {error.strerror}") from error


def find(arch: str = MACHINE) -> Blob:
    """The blob to use: the file KRUN_INIT_BINARY_PATH names, the one carried in the package, or the one in the cache.

    :raise UsageError: there are no blobs for this architecture.
    :raise BlobError: KRUN_INIT_BINARY_PATH names no usable file.
    :raise MissingError: none was built yet; `pykrun.blob.build` makes it.
    """
    if arch not in ARCHITECTURES:
        raise UsageError(f"no init blob for {arch}", f"there are: {', '.join(ARCHITECTURES)}")
    blob = given(arch) or _entry(FOLDER / "data" / arch) or _dated(arch) or cached(arch)
    if blob is None:
        build = command_for("pykrun.blob") if arch == MACHINE else command_for(f"pykrun.blob --arch {arch}", "cross")
        which = "the init blob" if arch == MACHINE else f"the init blob for {arch}"
        raise MissingError(f"{which} has not been built yet", f"run: {build}")
    return blob


def is_privileged() -> bool:
    """Whether this process has more rights than its caller (setuid): the caller's environment is not to be trusted."""
    return os.getuid() != os.geteuid() or os.getgid() != os.getegid()


def given(arch: str) -> Blob | None:
    """The blob that KRUN_INIT_BINARY_PATH names; the variable is ignored when the process is setuid.

    :raise BlobError: it names something that is no readable file.
    """
    name = os.environ.get(OVERRIDE)
    if not name or is_privileged():
        return None
    path = Path(name).absolute()
    try:
        about = path.stat()
    except OSError as error:
        raise BlobError(f"{OVERRIDE} names {name}: {error.strerror}") from error
    if not stat.S_ISREG(about.st_mode) or not about.st_size:
        raise BlobError(f"{OVERRIDE} names {name}: not a file, or empty")
    if not os.access(path, os.R_OK):
        raise BlobError(f"{OVERRIDE} names {name}: not readable")
    return Blob(path, about.st_size, arch, "given", "", ())


def _dated(arch: str) -> Blob | None:
    """The one for the environment's date. To run, any date does: the environment may be another than the build's."""
    if DATE not in os.environ or is_privileged():
        return None
    from pykrun.blob.switches import chosen

    return cached(arch, chosen().suffix)


def cached(arch: str, suffix: str = "") -> Blob | None:
    """The blob in the cache that was built from the sources as they are now.

    :param suffix: of a `switches.Choice`, empty for the default.
    """
    if not GUEST_FOLDER.is_dir():
        return None
    return _entry(entry_folder(arch, suffix))


def blob_folder() -> Path:
    """The part of the cache that holds blobs."""
    return cache_directory() / "blob"


def entry_folder(arch: str, suffix: str = "") -> Path:
    """The cache's entry for the sources as they are now, whether it exists or not."""
    return blob_folder() / f"{arch}-{source_key(arch)}{suffix}"


def _entry(folder: Path) -> Blob | None:
    try:
        about = json.loads((folder / "manifest.json").read_bytes())
        size = (folder / "init").stat().st_size
        blob = Blob(folder / "init", size, about["arch"], about["recipe"], about["builder"], tuple(about["switches"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # a copy that was cut short is worse than none
    return blob if size == about["size"] else None


# ---- the key


def source_files() -> list[Path]:
    """Every file of ours that has a part in the blob's bytes."""
    modules = ("freeze", "image", "layout", "native_json", "recipe", "switches", "targets", "toolchain", "zig")
    names = (*(f"{module}.py" for module in modules), "hot.txt")
    own = [FOLDER / name for name in names]
    guest = [file for pattern in ("*.py", "*/*.py", "*.c", "*.h") for file in GUEST_FOLDER.glob(pattern)]
    return own + sorted(FOLDER.glob("*.[ch]")) + sorted(guest)


def source_key(arch: str) -> str:
    """A digest of the sources' content and the architecture.

    Reading and hashing all of them takes milliseconds; the answer is kept beside what `stat` says of each.
    """
    files = source_files()
    times = [_times(file) for file in files]
    state = repr((arch, [str(file) for file in files], times))
    stamp = blob_folder() / f"stamp-{arch}-{_short(os.fsencode(FOLDER))}.json"
    kept = _read_stamp(stamp)
    if kept.get("state") == state and isinstance(kept.get("key"), str):
        return str(kept["key"])
    key = _hash_sources(arch, files)
    if max(max(modified, changed) for modified, changed, _, _ in times) + SETTLED_NS < time.time_ns():
        _write_stamp(stamp, {"state": state, "key": key})
    return key


def _times(file: Path) -> tuple[int, int, int, int]:
    about = file.stat()
    return about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino


def _short(data: bytes) -> str:
    import zlib

    return f"{zlib.crc32(data):08x}"


def _hash_sources(arch: str, files: list[Path]) -> str:
    import hashlib

    digest = hashlib.sha256(arch.encode())
    for file in files:
        content = file.read_bytes()
        digest.update(f"\0{file.parent.name}/{file.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:24]


def _read_stamp(stamp: Path) -> dict[str, Any]:
    try:
        kept = json.loads(stamp.read_bytes())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _write_stamp(stamp: Path, kept: dict[str, str]) -> None:
    """Best effort: without it the next look-up hashes again. Nothing is made where no blob was ever built."""
    if not os.path.isdir(stamp.parent):
        return
    try:
        write_atomic(stamp, [json.dumps(kept).encode()])
    except OSError:
        pass

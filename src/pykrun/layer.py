"""A writable layer that is kept on the host: a folder of its own, over one root, for one VM at a time.

In the folder lie `base`, a line that says what the layer lies over, and `layer`, which the guest's overlayfs has for
its own and can fill with anything. The rest is out of the guest's reach.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from pykrun.errors import UsageError
from pykrun.host.cache import write_atomic
from pykrun.record import record

_BASE, _LAYER = "base", "layer"
_LONGEST = 8192


@record(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer that is ours.

    :param folder: what the guest is to see of it.
    :param descriptor: holds the lock; the caller closes it when the VM has ended.
    """

    folder: Path
    descriptor: int


def open_layer(path: str, base: str) -> Layer:
    """Open a layer's folder, or make one where nothing is.

    :param base: what lies below, in words that name it. A layer only fits what it was made over.
    :raise UsageError: it lies over something else, is in use, is no layer, or cannot be made.
    """
    if not path:
        raise UsageError("--writable wants a directory, or the word memory")
    folder = Path(path)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        reason = os.strerror(errno.ENOTDIR) if isinstance(error, FileExistsError) else error.strerror
        raise UsageError(f"--writable {path!r}: {reason}", "it has to be a directory of this host") from None
    try:
        _lock(descriptor, path)
        _claim(folder, path, base)
        (folder / _LAYER).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        os.close(descriptor)
        raise UsageError(f"--writable {path!r}: {error.strerror}") from None
    except BaseException:
        os.close(descriptor)
        raise
    return Layer(folder=folder / _LAYER, descriptor=descriptor)


def _lock(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise UsageError(
            f"--writable {path!r}: another VM is using it", "each VM needs a directory of its own"
        ) from None


def _claim(folder: Path, path: str, base: str) -> None:
    """Compare what the layer lies over; a folder with nothing in it becomes a layer."""
    try:
        with open(folder / _BASE, "rb") as file:
            found = os.fsdecode(file.read(_LONGEST)).rstrip("\n")
    except FileNotFoundError:
        if any(not name.startswith(f".{_BASE}.") for name in os.listdir(folder)):
            raise UsageError(f"--writable {path!r} is not empty, and no layer", "name a new directory") from None
        write_atomic(folder / _BASE, [os.fsencode(base), b"\n"], 0o600)
        return
    if found != base:
        raise UsageError(f"--writable {path!r} is a layer over {found}, not over {base}", "name a new directory")

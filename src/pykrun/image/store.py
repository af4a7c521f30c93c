"""The cache of unpacked images: `images` in pykrun's cache folder, which lets nobody else in.

    trees/CHAIN-OWNER/files    an unpacked image, CHAIN the name of its content, OWNER `root` or the user's id
    trees/CHAIN-OWNER/lost     what could not be made as the image has it
    pulled/NAME                an OCI layout that skopeo copied, NAME the quoted reference
    names/NAME                 the chain that a reference was last unpacked as, for people
    new/XXXXXXXX               something that is being made; whoever makes it holds a lock on it

What is complete came to its place by one rename. A tree in use has a shared lock, so that it is not removed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from pykrun.errors import ImageError, UsageError
from pykrun.host import files
from pykrun.host.cache import cache_directory, write_atomic
from pykrun.image.manifest import Manifest
from pykrun.image.progress import Progress
from pykrun.image.reference import parse
from pykrun.image.tree import Tree, remove_tree
from pykrun.image.unpack import Unpacker
from pykrun.record import record

_ROOT, _LOST = "files", "lost"
_TREES, _PULLED, _NAMES, _NEW, _LOCKS = "trees", "pulled", "names", "new", "locks"
_THERE = (errno.ENOTEMPTY, errno.EEXIST)
"""How a rename fails when somebody was faster; what is there is the same."""
_ENOUGH = 200
"""Bytes of a quoted name; longer ones are named by their digest."""


def images_folder() -> Path:
    """Return the cache's folder, made if need be.

    :raise ImageError: it cannot be made, or somebody else could write there.
    """
    folder = cache_directory() / "images"
    try:
        for name in ("", _TREES, _PULLED, _NAMES, _NEW, _LOCKS):
            (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.stat(folder)
    except OSError as error:
        raise ImageError(
            f"cannot write {folder}: {error.strerror}", "set XDG_CACHE_HOME to a writable folder"
        ) from None
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ImageError(f"{folder} has to be yours alone", f"chmod 700 {folder}, or set XDG_CACHE_HOME")
    return folder


def _owner() -> str:
    """Root unpacks other trees than an ordinary user."""
    return "root" if os.geteuid() == 0 else str(os.geteuid())


def tree_of(manifest: Manifest) -> Path:
    """Return where the image's tree is, or will be."""
    return images_folder() / _TREES / f"{manifest.chain}-{_owner()}"


def unpacked(manifest: Manifest, fill: Callable[[Unpacker, Progress], None]) -> Path:
    """Return the image's tree, unpacked now if it was not before. Of several at once one unpacks, the others wait.

    :param fill: lays the layers into the tree.
    :raise ImageError: as `fill`, or the cache cannot be written.
    """
    place = tree_of(manifest)
    if not place.is_dir():
        with _lock(place.name):
            if not place.is_dir():
                _sweep()
                _unpack(place, fill)
    return place / _ROOT


def _unpack(place: Path, fill: Callable[[Unpacker, Progress], None]) -> None:
    with making() as folder, Progress("unpacking the image") as progress:
        (folder / _ROOT).mkdir(mode=0o755)
        os.chmod(folder / _ROOT, 0o755)
        tree = Tree(os.open(folder / _ROOT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        try:
            unpacker = Unpacker(tree)
            fill(unpacker, progress)
            unpacker.finish()
            write_atomic(folder / _LOST, [json.dumps(unpacker.lost).encode()], 0o600)
            files.sync_file_system(tree.root)  # what has its name has to be there, after a loss of power too
        except OSError as error:
            raise ImageError(f"cannot unpack the image: {error.strerror}") from None
        finally:
            tree.close()
        try:
            os.rename(folder, place)
        except OSError as error:
            if error.errno not in _THERE:
                raise ImageError(f"cannot unpack the image: {error.strerror}") from None


@contextmanager
def making() -> Iterator[Path]:
    """A new folder, locked while it is being made; what was not renamed is removed."""
    folder, descriptor = _new_folder(images_folder() / _NEW)
    try:
        yield folder
    finally:
        if folder.exists():
            _remove(folder)
        os.close(descriptor)


def _new_folder(new: Path) -> tuple[Path, int]:
    """Make a folder and lock it; one that was swept away before it was locked is made again."""
    while True:
        folder = new / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return folder, descriptor
        os.close(descriptor)


def _sweep() -> None:
    """Remove what a run that was killed did not finish: nobody holds its lock."""
    for folder in (images_folder() / _NEW).iterdir():
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)
        except OSError:
            pass  # it is being made, or somebody else is at it
        finally:
            os.close(descriptor)


def _remove(folder: Path) -> None:
    parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(os.fsencode(folder.name), parent)
    except FileNotFoundError:
        pass
    finally:
        os.close(parent)


@contextmanager
def _lock(name: str) -> Iterator[None]:
    """Be the only one who makes that, or nearly: who comes when the file goes may meet who waited for it before.

    Both then make the same, and the one whose rename comes second finds it there.
    """
    path = images_folder() / _LOCKS / name
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ImageError(f"cannot write the cache of images: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def hold(tree: Path) -> int:
    """Keep a tree from being removed until the descriptor is closed.

    :raise UsageError: it was removed.
    """
    descriptor = -1
    try:
        descriptor = os.open(tree.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        same = os.path.samestat(os.fstat(descriptor), os.stat(tree.parent))
    except OSError:
        same = False
    if not same:
        if descriptor >= 0:
            os.close(descriptor)
        raise UsageError("the image was just removed", "try again")
    return descriptor


def lost_of(tree: Path) -> dict[str, int]:
    """What could not be made as the image has it, to how often."""
    try:
        return dict(json.loads((tree.parent / _LOST).read_bytes()))
    except (OSError, ValueError):
        return {}


# -- names -------------------------------------------------------------------------------------------------------


def _quoted(name: str) -> str:
    quoted = quote(name, safe="")
    return quoted if len(quoted) <= _ENOUGH else hashlib.sha256(name.encode()).hexdigest()


def remember(name: str, chain: str) -> None:
    """Note what a reference was unpacked as; without that nothing but `pykrun image ls` is poorer."""
    path = images_folder() / _NAMES / _quoted(name)
    line = f"{chain}-{_owner()}\n".encode()
    try:
        if not path.exists() or path.read_bytes() != line:
            write_atomic(path, [line], 0o600)
    except OSError:
        pass


def pull(name: str, arch: str, *, anew: bool) -> Path:
    """Return an OCI layout with an image of a registry, copied by skopeo if it is not here, or asked for anew.

    :raise MissingError: skopeo is not installed.
    :raise ImageError: it failed.
    """
    from pykrun.image.skopeo import copy

    place = images_folder() / _PULLED / _quoted(f"{name} {arch}")
    if place.is_dir() and not anew:
        return place
    with _lock(hashlib.sha256(place.name.encode()).hexdigest()):
        if place.is_dir() and not anew:
            return place
        _sweep()
        with making() as folder:
            copy(name, folder / "image", arch)
            try:
                with suppress(FileNotFoundError):
                    os.rename(place, folder / "old")
                os.rename(folder / "image", place)
            except OSError as error:
                if error.errno not in _THERE:
                    raise ImageError(f"cannot keep {name}: {error.strerror}") from None
    return place


@record(frozen=True, slots=True, kw_only=True)
class Kept:
    """One unpacked tree of the cache, or a copy from a registry that was not unpacked.

    :param names: references it was asked for by.
    :param size: bytes on disk.
    """

    identity: str
    names: tuple[str, ...]
    size: int
    tree: Path


def kept_images() -> list[Kept]:
    """What is in the cache."""
    folder = images_folder()
    names: dict[str, list[str]] = {}
    for path in sorted((folder / _NAMES).iterdir()):
        try:
            names.setdefault(path.read_text().strip(), []).append(unquote(path.name))
        except OSError:
            continue
    return [
        Kept(identity=path.name.partition("-")[0], names=tuple(names.get(path.name, ())), size=_size(path), tree=path)
        for path in sorted((folder / _TREES).iterdir())
    ]


def _size(folder: Path) -> int:
    total = 0
    seen: set[int] = set()
    for where, _folders, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(where, name))
            except FileNotFoundError:  # somebody removes the image
                continue
            if status.st_nlink == 1 or status.st_ino not in seen:
                total += status.st_blocks * 512
                seen.add(status.st_ino)
    return total


def remove(which: str) -> None:
    """Remove an image: by a name it was asked for by, or the beginning of its identity.

    :raise UsageError: there is none, several begin so, or a VM is using it.
    """
    name = which
    if "/" in which or ":" in which:  # not the beginning of an identity
        name = parse(which).name
    found = [one for one in kept_images() if name in one.names]
    if not found and len(which) >= 4:
        found = [one for one in kept_images() if one.identity.startswith(which)]
    folder = images_folder()
    names = {name, *(called for one in found[:1] for called in one.names)}
    pulled = [path for path in (folder / _PULLED).iterdir() if unquote(path.name).rpartition(" ")[0] in names]
    if len(found) > 1 or (not found and not pulled):
        what = "several images begin with" if found else "there is no image"
        raise UsageError(f"{what} {which!r}", "`pykrun image ls` lists them")
    for one in found:
        _remove_kept(one, folder)
    for path in pulled:
        with making() as aside:
            os.rename(path, aside / "old")


def _remove_kept(one: Kept, folder: Path) -> None:
    descriptor = os.open(one.tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with making() as aside:
            os.rename(one.tree, aside / "old")
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise UsageError("a VM is using that image", "end it first") from None
    finally:
        os.close(descriptor)
    for name in one.names:
        (folder / _NAMES / _quoted(name)).unlink(missing_ok=True)

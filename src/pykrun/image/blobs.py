"""Where an image's bytes are: the files of an OCI layout, or the members of an archive, read at any offset."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from pathlib import Path
from typing import IO, Protocol, cast

from pykrun.errors import ImageError, UsageError
from pykrun.image.compression import copy_plain, is_compressed
from pykrun.image.documents import LARGEST_DOCUMENT, Descriptor
from pykrun.record import record

_CHUNK = 1 << 20
_MOST_MEMBERS = 100_000
_MOST_LINKS = 8
_LARGEST_HEADER = 1 << 20
"""Bytes that one header of an archive may have."""


@record(frozen=True, slots=True, kw_only=True)
class Blob:
    """Bytes of an open file; whoever has the source closes that."""

    descriptor: int
    offset: int
    size: int

    def read(self, offset: int, count: int) -> bytes:
        """Read at most so many bytes from there, none at the end."""
        return os.pread(self.descriptor, max(0, min(count, self.size - offset)), self.offset + offset)


class Source(Protocol):
    """Blobs by their names."""

    name: str
    """What it is called in messages."""

    def open(self, name: str) -> Blob:
        """Open a blob or document.

        :raise FileNotFoundError: there is none.
        """

    def close(self) -> None:
        """Close all that was opened."""


class Folder:
    """An OCI layout's directory."""

    def __init__(self, path: Path) -> None:
        """:raise UsageError: it cannot be opened."""
        self.name = str(path)
        self._open: list[int] = []
        try:
            self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(f"image {self.name!r}: {error.strerror}") from None

    def open(self, name: str) -> Blob:
        """Open a file of the layout."""
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._folder)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ImageError(f"{self.name}: {name}: {error.strerror}") from None
        self._open.append(descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{self.name}: {name} is no file")
        return Blob(descriptor=descriptor, offset=0, size=status.st_size)

    def close(self) -> None:
        """Close the folder and its files."""
        for descriptor in (*self._open, self._folder):
            os.close(descriptor)
        self._open.clear()


class Archive:
    """A tar file, of which a table of contents is made at first; one that is compressed is unpacked before."""

    def __init__(self, path: Path, scratch: Path) -> None:
        """Open it.

        :param scratch: a folder for what has to be unpacked.
        :raise UsageError: it cannot be opened.
        :raise ImageError: it is no tar file.
        """
        self.name = str(path)
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise UsageError(f"image {self.name!r}: {error.strerror}") from None
        try:
            status = os.fstat(self._file)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"image {self.name!r} is neither a file nor a directory")
            blob = Blob(descriptor=self._file, offset=0, size=status.st_size)
            if is_compressed(blob.read(0, 6)):
                plain = copy_plain(blob, scratch, self.name)
                os.close(self._file)
                self._file = plain
            self._members, self._links = self._contents()
        except BaseException:
            os.close(self._file)
            raise

    def _contents(self) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
        """Where the members lie, and what links among them say. Only headers are read."""
        members: dict[str, tuple[int, int]] = {}
        links: dict[str, str] = {}
        os.lseek(self._file, 0, os.SEEK_SET)
        try:
            with (
                os.fdopen(os.dup(self._file), "rb") as stream,
                tarfile.open(
                    fileobj=cast("IO[bytes]", _Headers(stream, self.name)), mode="r:", errors="surrogateescape"
                ) as tar,
            ):
                for count, member in enumerate(tar):
                    if count >= _MOST_MEMBERS:
                        raise ImageError(f"{self.name}: more than {_MOST_MEMBERS} files in an archive of an image")
                    name = _normal(member.name)
                    if member.isreg() and not member.issparse():
                        members[name] = (member.offset_data, member.size)
                    elif member.issym():
                        links[name] = _normal(os.path.join(os.path.dirname(name), member.linkname))
                    elif member.islnk():
                        links[name] = _normal(member.linkname)
        except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise ImageError(f"{self.name} is no image archive: {error}") from None
        return members, links

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def open(self, name: str) -> Blob:
        """Open a member; older versions of `docker save` have links among them."""
        name = _normal(name)
        for _ in range(_MOST_LINKS):
            if name in self._members or name not in self._links:
                break
            name = self._links[name]
        if name not in self._members:
            raise FileNotFoundError(name)
        offset, size = self._members[name]
        return Blob(descriptor=self._file, offset=offset, size=size)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class _Headers:
    """What tarfile reads headers from. It believes the size of an extended one, and would read it at once."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes.

        :raise ImageError: no header is as large.
        """
        if not 0 <= size <= _LARGEST_HEADER:
            raise ImageError(f"{self._name}: an extended header of {size} bytes")
        return self._stream.read(size)


def _normal(name: str) -> str:
    return os.path.normpath("/" + name).lstrip("/")


def read_document(source: Source, name: str, expected: Descriptor | None = None) -> bytes:
    """Read a document whole, and compare it with its descriptor.

    :raise ImageError: it is missing, too large, or not what its descriptor says.
    """
    blob = find(source, name)
    if blob.size > LARGEST_DOCUMENT:
        raise ImageError(f"{source.name}: {name} is too large: {blob.size} bytes")
    data = blob.read(0, blob.size)
    if expected is not None:
        _compare(source, name, expected, len(data), hashlib.sha256(data).hexdigest())
    return data


def verify(source: Source, name: str, expected: Descriptor) -> Blob:
    """Read a blob through and compare it with its descriptor; return it.

    :raise ImageError: it is missing, or not what its descriptor says.
    """
    blob = find(source, name)
    hashed = hashlib.sha256()
    offset = 0
    if blob.size == expected.size:
        while chunk := blob.read(offset, _CHUNK):
            hashed.update(chunk)
            offset += len(chunk)
    else:
        offset = blob.size
    _compare(source, name, expected, offset, hashed.hexdigest())
    return blob


def find(source: Source, name: str) -> Blob:
    """Open a blob that has to be there.

    :raise ImageError: it is not.
    """
    try:
        return source.open(name)
    except FileNotFoundError:
        raise ImageError(f"{source.name} is incomplete: {name} is missing") from None


def _compare(source: Source, name: str, expected: Descriptor, size: int, hexadecimal: str) -> None:
    if size != expected.size:
        raise ImageError(f"{source.name} is damaged: {name} has {size} bytes, not {expected.size}")
    if f"sha256:{hexadecimal}" != expected.digest:
        raise ImageError(f"{source.name} is damaged: {name} has another content than {expected.digest}")


def blob_name(digest: str) -> str:
    """Return the name of a blob in a layout."""
    return f"blobs/{digest.replace(':', '/')}"

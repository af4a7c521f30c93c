"""Plain bytes of a blob that may be compressed: gzip by zlib, zstd by Python's own or the `zstd` program."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pykrun.errors import ImageError, MissingError
from pykrun.host.programs import find_program

if TYPE_CHECKING:
    from pykrun.image.blobs import Blob

_CHUNK = 1 << 18
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_ZSTD_SKIPPED = range(0x184D2A50, 0x184D2A60)
"""Magic numbers of frames that hold no data (RFC 8878, 3.1.2); estargz and zstd:chunked have them."""


def is_compressed(head: bytes) -> bool:
    """Whether bytes begin like something compressed."""
    return head.startswith((_GZIP, _ZSTD, *_OTHERS)) or _is_skipped(head)


def _is_skipped(head: bytes) -> bool:
    return len(head) >= 4 and int.from_bytes(head[:4], "little") in _ZSTD_SKIPPED


def plain_chunks(blob: Blob, what: str) -> Iterator[bytes]:
    """Yield the plain bytes, in pieces of bounded size.

    How it is compressed is seen from its first bytes: archives of `docker save` do not say.

    :raise ImageError: it is damaged, or compressed in another way.
    :raise MissingError: it is zstd, and nothing here understands that.
    """
    head = blob.read(0, 6)
    if head.startswith(_GZIP):
        return _gunzip(blob, what)
    if head.startswith(_ZSTD) or _is_skipped(head):
        return _unzstd(blob, what)
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise ImageError(f"{what} is compressed by {name}", "images are compressed by gzip or zstd")
    return _read(blob)


def copy_plain(blob: Blob, scratch: Path, what: str) -> int:
    """Unpack into a file without a name; return its descriptor.

    :raise ImageError: it is damaged, or the folder cannot be written.
    """
    try:
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = os.open(scratch, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ImageError(f"cannot unpack {what} in {scratch}: {error.strerror}") from None
    try:
        with os.fdopen(os.dup(target), "wb") as file:
            for chunk in plain_chunks(blob, what):
                file.write(chunk)
    except OSError as error:
        os.close(target)
        raise ImageError(f"cannot unpack {what} in {scratch}: {error.strerror}") from None
    except BaseException:
        os.close(target)
        raise
    return target


def _read(blob: Blob) -> Iterator[bytes]:
    offset = 0
    while chunk := blob.read(offset, _CHUNK):
        offset += len(chunk)
        yield chunk


def _gunzip(blob: Blob, what: str) -> Iterator[bytes]:
    """Members one after the other, as gzip has them; zeros after the last one are padding."""
    decoder = zlib.decompressobj(31)
    started = False
    try:
        for chunk in _read(blob):
            waiting = chunk
            while waiting:
                if decoder.eof:
                    waiting = waiting.lstrip(b"\0")
                    if not waiting:
                        break
                    decoder = zlib.decompressobj(31)
                started = True
                if plain := decoder.decompress(waiting, _CHUNK):
                    yield plain
                waiting = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
        while started and not decoder.eof and (plain := decoder.decompress(b"", _CHUNK)):
            yield plain  # what the limit of the last piece held back
    except zlib.error as error:
        raise ImageError(f"{what} is damaged: {error}") from None
    if started and not decoder.eof:
        raise ImageError(f"{what} is damaged: it ends early")


def _unzstd(blob: Blob, what: str) -> Iterator[bytes]:
    if sys.version_info >= (3, 14):
        return _unzstd_here(blob, what)
    program = find_program("zstd")
    if program is None:
        raise MissingError(f"{what} is compressed by zstd", "apt-get install zstd")
    return _unzstd_by(str(program), blob, what)


def _unzstd_here(blob: Blob, what: str) -> Iterator[bytes]:
    zstd = importlib.import_module("compression.zstd")  # Python 3.14
    decoder = zstd.ZstdDecompressor()
    try:
        for chunk in _read(blob):
            waiting = chunk
            while waiting or not (decoder.eof or decoder.needs_input):
                if decoder.eof:
                    decoder = zstd.ZstdDecompressor()
                if plain := decoder.decompress(waiting, _CHUNK):
                    yield plain
                waiting = decoder.unused_data if decoder.eof else b""
    except zstd.ZstdError as error:
        raise ImageError(f"{what} is damaged: {error}") from None
    if not decoder.eof:
        raise ImageError(f"{what} is damaged: it ends early")


def _unzstd_by(program: str, blob: Blob, what: str) -> Iterator[bytes]:
    """Through the program, which a thread feeds; it ends with the generator."""
    process = subprocess.Popen(
        [program, "-dcq"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    entrance, exit_ = process.stdin, process.stdout

    def feed() -> None:
        try:
            with entrance:
                for chunk in _read(blob):
                    entrance.write(chunk)
        except (BrokenPipeError, ValueError):
            pass

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        while chunk := exit_.read1(_CHUNK):  # type: ignore[attr-defined]  # of a buffered reader, which a pipe is
            yield chunk
        if process.wait() != 0:
            raise ImageError(f"{what} is damaged: zstd cannot unpack it")
    finally:
        process.kill()
        process.wait()
        exit_.close()
        feeder.join()

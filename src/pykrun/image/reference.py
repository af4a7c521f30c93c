"""What an image is called: where it lies, as skopeo and podman write it, or its name in a registry."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pykrun.errors import UsageError
from pykrun.record import record

LAYOUT, OCI_ARCHIVE, DOCKER_ARCHIVE, REGISTRY = "oci", "oci-archive", "docker-archive", "docker"

_NAME = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?/)?"  # a host
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
"""distribution/reference: host, path, tag and digest. What begins with a dash or has a blank is never handed on."""


@record(frozen=True, slots=True, kw_only=True)
class Reference:
    """One image.

    :param kind: `oci`, `oci-archive`, `docker-archive`, `docker` (a registry), or "" for an archive of either kind.
    :param place: the folder or file, or the name in the registry.
    :param tag: which of several images there; empty for the only one.
    """

    kind: str
    place: str
    tag: str = ""

    @property
    def path(self) -> Path:
        """The place on this host."""
        return Path(self.place)

    @property
    def name(self) -> str:
        """What the cache calls it, whatever folder it is asked for from.

        :raise UsageError: that folder is gone.
        """
        if self.kind == REGISTRY:
            return self.place
        try:
            return os.path.abspath(self.place) + (f":{self.tag}" if self.tag else "")
        except OSError:  # of a relative one in a folder that was removed
            raise UsageError(
                f"--image {self.place!r}: the working directory is gone", "cd to one that is there"
            ) from None


def parse(text: str) -> Reference:
    """Understand a reference.

    With a transport (`oci:`, `oci-archive:`, `docker-archive:`, `docker://`) it is that; what exists as a file or
    folder here, or is written like a path, is a path; anything else is a name in a registry.

    :raise UsageError: it is none of these.
    """
    for kind in (LAYOUT, OCI_ARCHIVE, DOCKER_ARCHIVE):
        if text.startswith(f"{kind}:"):
            place, tag = _split(text[len(kind) + 1 :])
            if not place:
                raise UsageError(f"--image {text!r} names no {'folder' if kind == LAYOUT else 'file'}")
            return Reference(kind=kind, place=place, tag=tag)
    if text.startswith("docker://"):
        return _registry(text, text.removeprefix("docker://"))
    place, tag = _split(text)
    looks_like_a_path = text.startswith(("/", "./", "../"))
    if place and (looks_like_a_path or os.path.exists(place)):
        return Reference(kind=LAYOUT if os.path.isdir(place) else "", place=place, tag=tag)
    return _registry(text, text)


def absolute_reference(text: str) -> str:
    """The same reference, which means the same from any folder; a registry's name is what it was.

    :raise UsageError: it is no reference.
    """
    found = parse(text)
    if found.kind == REGISTRY:
        return text
    transport = f"{found.kind}:" if found.kind and text.startswith(f"{found.kind}:") else ""
    return transport + found.name


def _registry(text: str, name: str) -> Reference:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--image {text!r} is no file, folder or image name", "as in oci:DIR, docker-archive:FILE, debian:12"
        )
    return Reference(kind=REGISTRY, place=name)


def _split(text: str) -> tuple[str, str]:
    """Part `PATH[:TAG]`; the longest path that exists is one, else all before the first colon."""
    places = [text, *(text[:at] for at in range(len(text) - 1, -1, -1) if text[at] == ":")]
    place = next(filter(os.path.exists, places), text.partition(":")[0])
    return place, text[len(place) + 1 :]

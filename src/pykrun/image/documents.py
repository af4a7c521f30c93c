"""The JSON documents of an image: manifests, indexes and configurations, each field checked when it is asked for.

OCI image-spec 1.1 (image-layout.md, image-index.md, manifest.md, config.md) and Docker's schema 2, whose fields have
the same names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pykrun.errors import ImageError
from pykrun.record import record

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
LARGEST_DOCUMENT = 4 << 20
"""Bytes of one document: registries refuse larger manifests too."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""What `uname -m` says to what images say."""

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@record(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What a document says of a blob: it has these bytes and no others."""

    kind: str
    digest: str
    size: int


def document(what: str, data: bytes) -> dict[str, Any]:
    """Parse a document.

    :raise ImageError: it is no JSON object.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise ImageError(f"{what} is not JSON") from None
    if not isinstance(found, dict):
        raise ImageError(f"{what} is no JSON object")
    return found


def descriptor(what: str, value: object) -> Descriptor:
    """Check a descriptor.

    :raise ImageError: it is none, or its digest is of a kind that cannot be checked here.
    """
    if not isinstance(value, dict):
        raise ImageError(f"{what} is no descriptor")
    size, kind = value.get("size"), value.get("mediaType", "")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or not isinstance(kind, str):
        raise ImageError(f"{what} has no right size or media type")
    return Descriptor(kind=kind, digest=digest(what, value.get("digest")), size=size)


def digest(what: str, value: object) -> str:
    """Check a digest, `sha256:` and 64 hexadecimal digits.

    :raise ImageError: it is none.
    """
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ImageError(f"{what} has no sha256 digest: {str(value)[:80]!r}")
    return value


def entries(what: str, found: Mapping[str, Any], name: str) -> list[Any]:
    """Return an array of a document, an empty one where it is absent.

    :raise ImageError: it is something else.
    """
    value = found.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ImageError(f"{what}: {name} is no array")
    return value


def texts(what: str, found: Mapping[str, Any], name: str) -> list[str]:
    """Return an array of strings that a program may be given, an empty one where it is absent.

    :raise ImageError: it is something else.
    """
    values = entries(what, found, name)
    for value in values:
        if not isinstance(value, str) or "\0" in value:
            raise ImageError(f"{what}: {name} holds something else than strings")
    return values


def text(what: str, found: Mapping[str, Any], name: str) -> str:
    """Return a string, an empty one where it is absent.

    :raise ImageError: it is something else.
    """
    value = found.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise ImageError(f"{what}: {name} is no string")
    return value


def names_of(entry: object) -> list[str]:
    """What an index calls one of its images."""
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    if not isinstance(annotations, dict):
        return []
    return [name for key in (REF_NAME, CONTAINERD_NAME) if isinstance(name := annotations.get(key), str)]


def is_for(entry: object, arch: str) -> bool | None:
    """Whether an entry of an index is for that machine, as `uname -m` calls it; None when it does not say."""
    platform = entry.get("platform") if isinstance(entry, dict) else None
    if not isinstance(platform, dict):
        return None
    return platform.get("os") == "linux" and platform.get("architecture") == ARCHITECTURES.get(arch, arch)


def choose(what: str, listed: Sequence[object], arch: str) -> object:
    """Choose from an index of one image for several machines.

    :raise ImageError: none is for this one.
    """
    suited = [entry for entry in listed if is_for(entry, arch)]
    silent = [entry for entry in listed if is_for(entry, arch) is None]
    if suited:
        return suited[0]
    if len(silent) == 1:
        return silent[0]
    platforms = sorted({_platform(entry) for entry in listed} - {""})
    raise ImageError(
        f"{what} has nothing for {ARCHITECTURES.get(arch, arch)}",
        f"it is for: {', '.join(platforms) or 'nothing'}; --arch chooses the guest's machine",
    )


def _platform(entry: object) -> str:
    platform = entry.get("platform") if isinstance(entry, dict) else None
    if not isinstance(platform, dict) or platform.get("os") != "linux":
        return ""
    return str(platform.get("architecture"))[:20]

"""From a source of blobs to one image: its layers, their digests, and its configuration."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from pykrun.errors import ImageError, UsageError
from pykrun.image import documents
from pykrun.image.blobs import Archive, Blob, Source, blob_name, find, read_document, verify
from pykrun.image.config import Config, parse
from pykrun.image.documents import Descriptor
from pykrun.record import record

_INDEX, _DOCKER = "index.json", "manifest.json"
_DEEPEST = 4
_MOST_LAYERS = 1024
_HEXADECIMAL = re.compile(r"[0-9a-f]{64}")


@record(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer.

    :param name: of its blob in the source.
    :param expected: what the blob has to be; None where only the plain bytes have a digest (`docker save`).
    :param diff_id: the digest of its plain tar stream.
    """

    name: str
    expected: Descriptor | None
    diff_id: str

    def open(self, source: Source) -> Blob:
        """Open the blob, after it was read through and compared.

        :raise ImageError: it is missing or damaged.
        """
        return find(source, self.name) if self.expected is None else verify(source, self.name, self.expected)


@record(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One image.

    :param names: what the source calls it.
    """

    layers: tuple[Layer, ...]
    config: Config
    names: tuple[str, ...] = ()

    @property
    def chain(self) -> str:
        """The name of its tree: OCI image-spec 1.1, config.md, "Layer ChainID", without `sha256:`."""
        chain = ""
        for layer in self.layers:
            chain = (
                layer.diff_id
                if not chain
                else f"sha256:{hashlib.sha256(f'{chain} {layer.diff_id}'.encode()).hexdigest()}"
            )
        return chain.removeprefix("sha256:") or hashlib.sha256(b"").hexdigest()


def read_manifest(source: Source, kind: str, tag: str, arch: str) -> Manifest:
    """Read what is needed to unpack and run one image.

    :param kind: of a reference; an archive without one is what it looks like.
    :param tag: which of several images; empty for the only one.
    :param arch: the machine, as `uname -m` calls it.
    :raise UsageError: the tag names none, or is needed.
    :raise ImageError: it is damaged, or not for this machine.
    """
    if isinstance(source, Archive):
        if kind == "docker-archive" and _DOCKER not in source:
            raise ImageError(f"{source.name} is no archive of `docker save`: it has no {_DOCKER}")
        if kind != "oci-archive" and _INDEX not in source and _DOCKER in source:
            kind = "docker-archive"
    if kind == "docker-archive":
        return _of_docker(source, tag, arch)
    return _of_layout(source, tag, arch)


# -- OCI layouts -------------------------------------------------------------------------------------------------


def _of_layout(source: Source, tag: str, arch: str) -> Manifest:
    try:
        source.open(_INDEX)
    except FileNotFoundError:
        raise ImageError(
            f"{source.name} is no image: it has no {_INDEX}", "an OCI layout has one, `docker save` a manifest.json"
        ) from None
    index = documents.document(f"{source.name}: {_INDEX}", read_document(source, _INDEX))
    listed = documents.entries(f"{source.name}: {_INDEX}", index, "manifests")
    entry = _select(source, listed, tag, arch)
    for _ in range(_DEEPEST):
        found = documents.descriptor(f"{source.name}: {_INDEX}", entry)
        name = blob_name(found.digest)
        data = documents.document(f"{source.name}: {name}", read_document(source, name, found))
        kind = data.get("mediaType") or found.kind
        if kind in documents.INDEXES or (not kind and "manifests" in data):
            entry = documents.choose(source.name, documents.entries(f"{source.name}: {name}", data, "manifests"), arch)
            continue
        if kind not in documents.MANIFESTS and not (not kind and "layers" in data):
            raise ImageError(f"{source.name} holds {str(kind)[:80]!r}, which is no image")
        return _of_manifest(source, name, data, arch, tuple(documents.names_of(entry)))
    raise ImageError(f"{source.name}: indexes lie too deep in each other")


def _select(source: Source, listed: list[Any], tag: str, arch: str) -> object:
    """The image of that tag; without one the only image, which may be there once for each machine."""
    if tag:
        tagged = [entry for entry in listed if _matches(documents.names_of(entry), tag)]
        if not tagged:
            raise UsageError(f"{source.name} has no image {tag!r}", _known(listed))
        listed = tagged
    elif len({tuple(documents.names_of(entry)) for entry in listed}) > 1:
        raise UsageError(f"{source.name} has several images", _known(listed))
    if len(listed) == 1:
        return listed[0]
    return documents.choose(source.name, listed, arch)


def _matches(names: list[str], tag: str) -> bool:
    return any(name == tag or name.endswith((f":{tag}", f"/{tag}")) for name in names)


def _known(listed: list[Any]) -> str:
    names = [name for entry in listed for name in documents.names_of(entry)[:1]]
    return f"append one of: {', '.join(f':{name}' for name in names[:20])}" if names else "its images have no names"


def _of_manifest(source: Source, name: str, data: dict[str, Any], arch: str, names: tuple[str, ...]) -> Manifest:
    what = f"{source.name}: {name}"
    told = documents.descriptor(f"{what}: config", data.get("config"))
    layers = [documents.descriptor(f"{what}: layer", layer) for layer in documents.entries(what, data, "layers")]
    config_name = blob_name(told.digest)
    config, diff_ids = _read_config(source, config_name, told, arch)
    if len(layers) != len(diff_ids):
        raise ImageError(f"{what}: {len(layers)} layers, but the configuration knows of {len(diff_ids)}")
    return Manifest(
        config=config,
        layers=tuple(
            Layer(name=blob_name(layer.digest), expected=layer, diff_id=diff_id)
            for layer, diff_id in zip(layers, diff_ids, strict=True)
        ),
        names=names,
    )


def _read_config(source: Source, name: str, told: Descriptor | None, arch: str) -> tuple[Config, list[str]]:
    """The configuration, and the digests of the layers' plain bytes."""
    what = f"{source.name}: {name}"
    data = documents.document(what, read_document(source, name, told))
    system, machine = documents.text(what, data, "os"), documents.text(what, data, "architecture")
    wanted = documents.ARCHITECTURES.get(arch, arch)
    if system not in ("", "linux"):
        raise ImageError(f"{source.name} is an image for {system[:40]!r}, not for linux")
    if machine not in ("", wanted):
        raise ImageError(
            f"{source.name} is an image for {machine[:40]}, the guest is {wanted}", "--arch chooses the guest's machine"
        )
    told_of = data.get("config")
    config = parse(what, told_of if isinstance(told_of, dict) else {})
    file_system = data.get("rootfs")
    if not isinstance(file_system, dict) or file_system.get("type") != "layers":
        raise ImageError(f"{what}: it has no rootfs of layers")
    diff_ids = [
        documents.digest(f"{what}: diff_ids", each) for each in documents.entries(what, file_system, "diff_ids")
    ]
    if len(diff_ids) > _MOST_LAYERS:
        raise ImageError(f"{what}: {len(diff_ids)} layers, more than {_MOST_LAYERS}")
    return config, diff_ids


# -- docker save -------------------------------------------------------------------------------------------------


def _of_docker(source: Source, tag: str, arch: str) -> Manifest:
    """What `docker save` and skopeo's docker-archive have: a list of images in manifest.json."""
    what = f"{source.name}: {_DOCKER}"
    listed = list(_docker_images(what, read_document(source, _DOCKER)))
    tags = [documents.texts(what, image, "RepoTags") for image in listed]
    if tag:
        chosen = [image for image, names in zip(listed, tags, strict=True) if _matches(names, tag)]
        if not chosen:
            raise UsageError(f"{source.name} has no image {tag!r}", _tags(tags))
    elif len(listed) != 1:
        raise UsageError(f"{source.name} has {len(listed)} images", _tags(tags))
    else:
        chosen = listed
    image = chosen[0]
    name = documents.text(what, image, "Config")
    stem = name.rpartition("/")[2].removesuffix(".json")
    if not name:
        raise ImageError(f"{what}: an image has no Config")
    told = None
    if _HEXADECIMAL.fullmatch(stem):  # the digest is its name
        told = Descriptor(kind="", digest=f"sha256:{stem}", size=find(source, name).size)
    config, diff_ids = _read_config(source, name, told, arch)
    layers = documents.texts(what, image, "Layers")
    if len(layers) != len(diff_ids):
        raise ImageError(f"{what}: {len(layers)} layers, but the configuration knows of {len(diff_ids)}")
    return Manifest(
        config=config,
        layers=tuple(
            Layer(name=layer, expected=None, diff_id=diff_id) for layer, diff_id in zip(layers, diff_ids, strict=True)
        ),
        names=tuple(documents.texts(what, image, "RepoTags")),
    )


def _docker_images(what: str, data: bytes) -> Iterator[dict[str, Any]]:
    wrapped = documents.document(what, b'{"images":' + data + b"}")
    for image in documents.entries(what, wrapped, "images"):
        if not isinstance(image, dict):
            raise ImageError(f"{what}: an image is no JSON object")
        yield image


def _tags(tags: list[list[str]]) -> str:
    known = [name for names in tags for name in names[:1]]
    return f"append one of: {', '.join(f':{name}' for name in known[:20])}" if known else "its images have no names"

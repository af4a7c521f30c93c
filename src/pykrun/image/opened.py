"""An image that is ready to run: `open_image`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pykrun.errors import ImageError
from pykrun.host.numbers import MACHINE
from pykrun.image import store
from pykrun.image.blobs import Archive, Folder, Source
from pykrun.image.compression import plain_chunks
from pykrun.image.config import Config
from pykrun.image.manifest import Layer, Manifest, read_manifest
from pykrun.image.progress import Progress
from pykrun.image.reference import DOCKER_ARCHIVE, LAYOUT, OCI_ARCHIVE, REGISTRY, Reference, parse
from pykrun.image.unpack import Unpacker
from pykrun.record import record


@record(frozen=True, slots=True, kw_only=True)
class Image:
    """An image, unpacked.

    :param tree: its root file system; it belongs to the cache and is not to be changed.
    :param chain: the digest that names the tree's content.
    :param names: what the image is called where it was found.
    :param lost: what could not be made as the image has it, to how often.
    """

    tree: Path
    config: Config
    chain: str
    names: tuple[str, ...]
    lost: dict[str, int]

    def hold(self) -> int:
        """Keep the tree from being removed until the returned descriptor is closed."""
        return store.hold(self.tree)


def open_image(reference: str, *, arch: str = MACHINE, pull: bool = False) -> Image:
    """Find an image, and unpack it unless that was done before.

    :param reference: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:TAG]`, `docker://NAME`, a path of
        any of the former, or a name in a registry.
    :param arch: the machine to run it on, as `uname -m` calls it.
    :param pull: ask the registry again, even if the image was pulled before.
    :raise UsageError: there is no such image.
    :raise ImageError: it is damaged, hostile, for another machine, or cannot be unpacked.
    :raise MissingError: it takes skopeo or zstd, which is not installed.
    """
    found = parse(reference)
    name = found.name
    if found.kind == REGISTRY:
        layout = store.pull(found.place, arch, anew=pull)
        found = Reference(kind=LAYOUT, place=str(layout))
    source = _open(found)
    try:
        manifest = read_manifest(source, found.kind, found.tag, arch)
        tree = store.unpacked(manifest, partial(_fill, source, manifest))
    finally:
        source.close()
    store.remember(name, manifest.chain)
    return Image(
        tree=tree, config=manifest.config, chain=manifest.chain, names=manifest.names, lost=store.lost_of(tree)
    )


def _open(found: Reference) -> Source:
    if found.kind == LAYOUT:
        return Folder(found.path)
    assert found.kind in (OCI_ARCHIVE, DOCKER_ARCHIVE, "")
    return Archive(found.path, store.images_folder() / "new")


def _fill(source: Source, manifest: Manifest, unpacker: Unpacker, progress: Progress) -> None:
    """Lay every layer, and compare its plain bytes with the digest that the configuration has."""
    for number, layer in enumerate(manifest.layers, 1):
        what = f"{source.name}: layer {number}"
        hashed = hashlib.sha256()
        unpacker.layer(_measured(source, layer, what, hashed, progress), what)
        if f"sha256:{hashed.hexdigest()}" != layer.diff_id:
            raise ImageError(f"{what} is damaged: it has another content than {layer.diff_id}")


def _measured(source: Source, layer: Layer, what: str, hashed: hashlib._Hash, progress: Progress) -> Iterator[bytes]:
    for chunk in plain_chunks(layer.open(source), what):
        hashed.update(chunk)
        progress.add(len(chunk))
        yield chunk
